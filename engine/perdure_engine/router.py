"""The router: every published event, in the log's order, to the runs it starts and the runs that wait for it.

It follows the settled log, so definitions, runs and published events meet in one order. Whatever it does can be done
again: a run it starts has an id computed from event and workflow, and what an event met is recorded once, in the
event's own stream (EventRouted), together with the inbox rows. Its checkpoint may therefore lag, never lead.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

import structlog

from perdure_engine.definitions.definition import Definition
from perdure_engine.facts import EventPublished, EventRouted, Match, decode_fact, encode_fact
from perdure_engine.identity import run_for_event, shard_of
from perdure_engine.registry import Registration, Registry
from perdure_engine.run.matching import starts_run
from perdure_engine.run.scope import event_scope
from perdure_engine.run.state import Occurrence
from perdure_engine.templates import TemplateError
from perdure_engine.work import OPEN_KEY
from perdure_eventstore.append import Append
from perdure_eventstore.appender import Appender
from perdure_eventstore.door import Json
from perdure_eventstore.errors import AppendRefused, Conflict
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.feed import Feed
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

log = structlog.get_logger(__name__)

LONGEST_KEY = 256
"""Characters of a run's key."""

_BATCH = 500
_TYPES = ("EventPublished", "DefinitionRegistered", "DefinitionRetired")
_CHECKPOINT_EVERY = 10_000


class StartOrder(NamedTuple):
    """A run that an event starts."""

    run: UUID
    definition: Definition
    event: Occurrence
    armed_at: int
    key: str | None


class _Arrival:
    """A published event on its way, and what it has met so far."""

    def __init__(self, recorded: RecordedEvent) -> None:
        self.recorded = recorded
        self.published: EventPublished = decode_fact(recorded)
        self.matches: list[Match] = []
        self.reasons: list[str] = []

    @property
    def occurrence(self) -> Occurrence:
        return Occurrence(self.published.name, self.published.payload, self.recorded.stream, self.published.key)

    def deliver(self, workflow_id: str, run: UUID) -> None:
        if all(match.run != run for match in self.matches):
            self.matches.append(Match(workflow_id, "delivered", run))


class Router:
    """Routes published events; one at a time over all nodes, by an advisory lock."""

    def __init__(
        self,
        session: Session,
        appender: Appender,
        registry: Registry,
        feed: Feed,
        schema: str,
        start: Callable[[StartOrder], Awaitable[bool]],
        delivered: Callable[[], None],
    ) -> None:
        """``start`` starts a run and returns once that is recorded; ``delivered`` is told that inboxes were filled."""
        self._session, self._appender, self._registry, self._feed = session, appender, registry, feed
        self._reader = Reader(session, schema)
        self._start, self._delivered = start, delivered
        self.definitions_changed: list[Callable[[], None]] = []
        """Told when definitions came or went in the log."""
        self._position = 0
        self._saved = 0
        self._concerned: dict[str, list[list[Registration]]] | None = None
        self._lock = f"select pg_try_advisory_lock(hashtextextended('perdure.router.' || '{schema}', 0))"
        self._load = f'select position from "{schema}".router'
        self._save = f'update "{schema}".router set position = %s where position < %s'
        self._open_keyed = f'select run from "{schema}".open_runs where workflow_id = %s and key = %s'
        self._open_run = f'select workflow_id from "{schema}".open_runs where run = %s'
        self._waiting = f"""select w.event, w.run, w.armed_at, r.workflow_id from "{schema}".waits w
            join "{schema}".open_runs r using (run) where w.event = any(%s) and w.key is null"""

    async def run(self) -> None:
        """Take the lock, then route for ever; raises LogError when the log cannot be reached."""
        while not (await self._session.fetch(self._lock))[0][0]:
            await asyncio.sleep(1.0)
        opened = self._session.opened
        self._position = self._saved = (await self._session.fetch(self._load))[0][0]
        self._concerned = None
        while self._session.opened == opened:
            await self.run_once(await self._feed.beyond(self._position))

    async def run_once(self, mark: int) -> None:
        """Route what is settled up to ``mark``."""
        while self._position < mark:
            events = await self._reader.span(self._position, mark, types=_TYPES, limit=_BATCH)
            arrivals = [_Arrival(event) for event in events if event.type == "EventPublished"]
            if self._concerned is None or len(arrivals) < len(events):
                self._concerned = await self._definitions()
                for told in self.definitions_changed:
                    told()
            if arrivals:
                await self._route(arrivals)
            self._position = mark if len(events) < _BATCH else events[-1].position
            if arrivals or self._position - self._saved > _CHECKPOINT_EVERY:
                await self._session.fetch(self._save, (self._position, self._position))
                self._saved = self._position

    async def _definitions(self) -> dict[str, list[list[Registration]]]:
        """For each event's name, the workflows that it may concern: their versions, oldest first."""
        workflows: defaultdict[str, list[Registration]] = defaultdict(list)
        for version in await self._registry.versions():
            workflows[version.workflow_id].append(version)
        concerned: defaultdict[str, list[list[Registration]]] = defaultdict(list)
        for versions in workflows.values():
            for name in {name for version in versions for name in version.events}:
                concerned[name].append(versions)
        return concerned

    async def _route(self, arrivals: Sequence[_Arrival]) -> None:
        await self._match_definitions(arrivals)
        await self._match_waits(arrivals)
        results = await asyncio.gather(*map(self._record, arrivals), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, Conflict):
                raise result
        self._delivered()

    async def _match_definitions(self, arrivals: Sequence[_Arrival]) -> None:
        """Start what the events start: keyed workflows one event after another, the others all at once."""
        starting: list[Awaitable[None]] = []
        for arrival in arrivals:
            if arrival.published.run is not None:
                await self._match_one_run(arrival)
                continue
            for version in self._active_at(arrival.published.name, arrival.recorded.position):
                if version.keyed:
                    await self._guarded(arrival, version, self._match_keyed)
                else:
                    starting.append(self._guarded(arrival, version, self._match_unkeyed))
        await asyncio.gather(*starting)

    async def _guarded(
        self,
        arrival: _Arrival,
        version: Registration,
        match: Callable[[_Arrival, Definition], Awaitable[None]],
    ) -> None:
        """One event that one workflow cannot take shall not hold up every other event."""
        try:
            await match(arrival, await self._registry.definition(version.digest))
        except (AppendRefused, ValueError, ArithmeticError, RecursionError) as error:
            log.exception("an event could not be matched", stream=str(arrival.recorded.stream))
            reason = f"it could not be matched: {error}"
            arrival.matches.append(Match(version.workflow_id, "ignored", reason=reason))

    def _active_at(self, name: str, position: int) -> Iterable[Registration]:
        for versions in (self._concerned or {}).get(name, ()):
            for version in reversed(versions):
                if version.registered_at < position:
                    if version.retired_at is None or version.retired_at > position:
                        yield version
                    break

    async def _match_unkeyed(self, arrival: _Arrival, definition: Definition) -> None:
        if self._starts(arrival, definition):
            await self._start_run(arrival, definition, arrival.published.key)

    async def _match_one_run(self, arrival: _Arrival) -> None:
        run = arrival.published.run
        rows = await self._session.fetch(self._open_run, (run,))
        if rows and run is not None:
            arrival.deliver(rows[0][0], run)
        else:
            arrival.reasons.append(f"there is no open run {run}")

    def _starts(self, arrival: _Arrival, definition: Definition) -> bool:
        if starts_run(definition, arrival.occurrence):
            return True
        if arrival.published.name in definition.entries:
            arrival.reasons.append(f"{definition.workflow_id}: `where` is not true of it")
        return False

    async def _match_keyed(self, arrival: _Arrival, definition: Definition) -> None:
        """One open run a key: the event goes to it, and starts one only where there is none."""
        name, workflow_id = arrival.published.name, definition.workflow_id
        if name not in definition.entries and name not in definition.listeners:
            return
        assert definition.key is not None
        occurrence = arrival.occurrence
        try:
            resolved = definition.key.resolve(event_scope(lambda: occurrence.payload.value, occurrence))
        except TemplateError as error:
            arrival.matches.append(Match(workflow_id, "ignored", reason=str(error)))
            return
        if resolved is None:
            arrival.matches.append(Match(workflow_id, "ignored", reason="its key is null"))
            return
        key = resolved if isinstance(resolved, str) else Json.of(resolved).text.decode()
        if len(key) > LONGEST_KEY:
            arrival.matches.append(Match(workflow_id, "ignored", reason=f"its key is over {LONGEST_KEY} characters"))
            return
        started = run_for_event(arrival.recorded.stream, workflow_id)
        rows = await self._session.fetch(self._open_keyed, (workflow_id, key))
        if rows and rows[0][0] != started:
            arrival.deliver(workflow_id, rows[0][0])
        elif self._starts(arrival, definition):
            try:
                await self._start_run(arrival, definition, key)
            except AppendRefused as error:
                if error.constraint != OPEN_KEY:
                    raise
                # A run with this key was started by other means just now: look again.
                await self._match_keyed(arrival, definition)

    async def _start_run(self, arrival: _Arrival, definition: Definition, key: str | None) -> None:
        run = run_for_event(arrival.recorded.stream, definition.workflow_id)
        order = StartOrder(run, definition, arrival.occurrence, arrival.recorded.position, key)
        await self._start(order)
        arrival.matches.append(Match(definition.workflow_id, "started", run))

    async def _match_waits(self, arrivals: Sequence[_Arrival]) -> None:
        """Deliver to every run that waited before the event came; keyed ones got theirs by their key."""
        public = [arrival for arrival in arrivals if arrival.published.run is None]
        rows = await self._session.fetch(self._waiting, (list({arrival.published.name for arrival in public}),))
        for arrival in public:
            for event, run, armed_at, workflow_id in rows:
                if event == arrival.published.name and armed_at < arrival.recorded.position:
                    arrival.deliver(workflow_id, run)

    async def _record(self, arrival: _Arrival) -> None:
        reason = ""
        if not arrival.matches:
            reason = "; ".join(arrival.reasons) or "no workflow starts with it and no run waits for it"
        fact = EventRouted(matches=tuple(arrival.matches), reason=reason)
        inbox = [
            {"run": match.run, "shard": shard_of(match.run), "kind": "event", "event": arrival.recorded.stream}
            for match in arrival.matches
            if match.outcome == "delivered" and match.run is not None
        ]
        append = Append(
            arrival.recorded.stream, arrival.recorded.head, [encode_fact(fact)], {"inbox": inbox} if inbox else None
        )
        await self._appender.append(append)

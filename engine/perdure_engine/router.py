"""The router: every published event, in the log's order, to the runs it starts and the runs that wait for it.

It follows the settled log, so definitions, runs and published events meet in one order. Whatever it does can be done
again: a run it starts has an id computed from event and workflow, and what an event met is recorded once, in the
event's own stream (EventRouted), together with the inbox rows. Its checkpoint may therefore lag, never lead, and two
that route at once for a moment, as one takes over from the other, do no harm.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import structlog

from perdure_engine.arrivals import Arrival, NoKey, key_of
from perdure_engine.definitions.definition import Definition
from perdure_engine.facts import EventRouted, Match, encode_fact
from perdure_engine.identity import run_for_event, shard_of
from perdure_engine.registry import Registration, Registry
from perdure_engine.requests import Request, Requests
from perdure_engine.run.matching import starts_run
from perdure_engine.starting import StartOrder
from perdure_engine.templates import TemplateError
from perdure_engine.upcasting import NewerEvent
from perdure_engine.work import OPEN_KEY
from perdure_eventstore.append import Append
from perdure_eventstore.appender import Appender
from perdure_eventstore.errors import AppendRefused, Conflict, LogError
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.feed import Feed
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session
from perdure_eventstore.vault.errors import VaultError

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

log = structlog.get_logger(__name__)

_LOOK = 0.5
"""Seconds between two looks whether to route at all."""

_UPGRADE = 5.0
"""Seconds between two looks whether an event that only a newer Perdure can read was routed by one."""

_BATCH = 500
_PUBLISHED = ("EventPublished", "StartRequested")
_DEFINITIONS = ("DefinitionRegistered", "DefinitionRetired")
_CHECKPOINT_EVERY = 10_000


class _Versions(NamedTuple):
    """A workflow as it was when an event came: its versions so far, and the one that may start."""

    so_far: Sequence[Registration]
    active: Registration | None


def _at(position: int, versions: Sequence[Registration]) -> _Versions:
    so_far = [version for version in versions if version.registered_at < position]
    newest = so_far[-1] if so_far else None
    is_active = newest is not None and (newest.retired_at is None or newest.retired_at > position)
    return _Versions(so_far, newest if is_active else None)


class _Key(NamedTuple):
    """The key of the run that an event may start, and its definition."""

    key: str
    definition: Definition


class Router:
    """Routes published events: one node's at a time, but for a moment when that changes."""

    def __init__(
        self,
        session: Session,
        appender: Appender,
        registry: Registry,
        feed: Feed,
        schema: str,
        start: Callable[[StartOrder], Awaitable[bool]],
        delivered: Callable[[], None],
        may_route: Callable[[], bool],
        vault: "Vault | None" = None,
    ) -> None:
        """``start`` starts a run and returns once that is recorded; ``delivered`` is told that inboxes were filled.

        ``may_route`` says whether it is this node's turn.
        """
        self._session, self._appender, self._registry, self._feed = session, appender, registry, feed
        self._reader = Reader(session, schema, vault)
        self._start, self._delivered, self._may_route = start, delivered, may_route
        self._requests = Requests(session, registry, schema, start, vault)
        self._workflows: dict[str, list[Registration]] = {}
        self._position = 0
        self._saved = 0
        self._concerned: dict[str, list[list[Registration]]] | None = None
        self._load = f'select position from "{schema}".router'
        # Only where it was left: somebody may have set it back, to have events routed that were passed over.
        self._save = f'update "{schema}".router set position = %s where position = %s returning position'
        # The run that the event itself started comes without a key, whether it is open or not.
        # One probe after the other: of tables that look empty and are full of dead rows, a join may read everything.
        self._keyed_runs = f"""select r.run, asked.key, e.data ->> 'digest'
            from unnest(%s::text[]) asked (key) cross join lateral (
                select run from "{schema}".open_runs o where o.workflow_id = %s and o.key = asked.key limit 1) r
            cross join lateral (select data from "{schema}".events e where e.stream = r.run and e.version = 1 limit 1) e
            union all select e.stream, null, null from "{schema}".events e where e.stream = %s and e.version = 1"""
        self._open_run = f'select workflow_id from "{schema}".open_runs where run = %s'
        self._waiting = f"""select w.event, w.run, w.armed_at, r.workflow_id
            from unnest(%s::text[]) asked (event) cross join lateral (
                select * from "{schema}".waits w where w.event = asked.event and w.key is null offset 0) w
            cross join lateral (select workflow_id from "{schema}".open_runs r where r.run = w.run limit 1) r"""

    async def run(self) -> None:
        """Route for ever, while it is this node's turn. Raises LogError when the log cannot be reached."""
        while True:
            while not self._may_route():
                await asyncio.sleep(_LOOK)
            await self._take_place()
            await self._feed.anew()
            opened = self._session.opened
            while self._may_route() and self._session.opened == opened and self._feed.mark >= self._position:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await self._feed.beyond(self._position)
                if self._may_route():
                    await self._route_what_is_known()

    async def _take_place(self) -> None:
        self._position = self._saved = (await self._session.fetch(self._load))[0][0]
        self._concerned = None

    async def _route_what_is_known(self) -> None:
        try:
            await self.run_once(self._feed.mark)
        except NewerEvent as error:
            log.error("routing waits for a newer node", reason=str(error), retry_in=_UPGRADE)
            await asyncio.sleep(_UPGRADE)

    async def run_once(self, mark: int) -> None:
        """Route what is settled up to ``mark``. Raises NewerEvent at one that only a newer Perdure can read."""
        while self._position < mark:
            # What another router, or this one before it died, found of an event follows it, and must not change.
            events = await self._reader.unfollowed(self._position, mark, _PUBLISHED, _DEFINITIONS, _BATCH)
            published = [event for event in events if event.type in _PUBLISHED]
            if self._concerned is None or len(published) < len(events):
                self._concerned = await self._definitions()
            if published:
                await self._route(published)
            self._position = mark if len(events) < _BATCH else events[-1].position
            if published or self._position - self._saved > _CHECKPOINT_EVERY:
                if await self._session.fetch(self._save, (self._position, self._saved)):
                    self._saved = self._position
                else:
                    await self._take_place()

    async def _definitions(self) -> dict[str, list[list[Registration]]]:
        """For each event's name, the workflows that it may concern: their versions, oldest first."""
        workflows: defaultdict[str, list[Registration]] = defaultdict(list)
        for version in await self._registry.versions():
            workflows[version.workflow_id].append(version)
        self._workflows = dict(workflows)
        concerned: defaultdict[str, list[list[Registration]]] = defaultdict(list)
        for versions in workflows.values():
            for name in {name for version in versions for name in version.events}:
                concerned[name].append(versions)
        return concerned

    async def _route(self, published: Sequence[RecordedEvent]) -> None:
        """Route what nobody has. Raises NewerEvent, once what came before it is routed."""
        arrivals: list[Arrival | Request] = []
        recording, newer = [], None
        for event in published:
            try:
                arrivals.append(Arrival(event) if event.type == "EventPublished" else Request(event))
            except NewerEvent as error:
                # A newer node can read it and goes on from here: passed over, it would be lost.
                newer = error
                break
            except Exception as error:
                log.exception("a published event cannot be read", stream=str(event.stream))
                recording.append(self._record(event, (), f"it cannot be read: {error}"))
        await self._match_definitions(arrivals)
        await self._match_waits([arrival for arrival in arrivals if isinstance(arrival, Arrival)])
        for arrival in arrivals:
            recording.append(self._record(arrival.recorded, arrival.matches, arrival.reason))
        await asyncio.gather(*recording)
        self._delivered()
        if newer is not None:
            raise newer

    async def _match_definitions(self, arrivals: Sequence[Arrival | Request]) -> None:
        """Start what the events start: keyed workflows one event after another, the others all at once."""
        starting: list[Awaitable[None]] = []
        for arrival in arrivals:
            position = arrival.recorded.position
            if isinstance(arrival, Request):
                asked = _at(position, self._workflows.get(arrival.asked.workflow_id, ()))
                meeting = self._guarded(arrival, arrival.asked.workflow_id, self._meet(arrival, asked))
                if asked.active is None or not asked.active.keyed:
                    starting.append(meeting)
                else:
                    await meeting
            elif arrival.published.run is None:
                for versions in self._concerned_at(arrival.published.name, position):
                    workflow_id = versions.so_far[-1].workflow_id
                    # Keyed runs go on after their version was replaced or retired.
                    if any(version.keyed for version in versions.so_far):
                        await self._guarded(arrival, workflow_id, self._match_keyed(arrival, versions))
                    if versions.active is not None and not versions.active.keyed:
                        starting.append(self._guarded(arrival, workflow_id, self._match_unkeyed(arrival, versions)))
        await asyncio.gather(*starting)
        for arrival in arrivals:
            if isinstance(arrival, Arrival) and arrival.published.run is not None:
                await self._match_one_run(arrival)

    async def _guarded(self, arrival: Arrival | Request, workflow_id: str, match: Awaitable[None]) -> None:
        """One event that one workflow cannot take shall not hold up every other event."""
        try:
            await match
        except Exception as error:
            # Who has no key yet may be given one: what was recorded of the event would stay.
            if isinstance(error, VaultError) or (isinstance(error, LogError) and not isinstance(error, AppendRefused)):
                raise
            log.exception("an event could not be matched", stream=str(arrival.recorded.stream))
            arrival.ignore(workflow_id, f"it could not be matched: {error}")

    def _concerned_at(self, name: str, position: int) -> list[_Versions]:
        found = [_at(position, versions) for versions in (self._concerned or {}).get(name, ())]
        return [versions for versions in found if versions.so_far]

    async def _meet(self, request: Request, versions: _Versions) -> None:
        position = request.recorded.position
        known = [name for name, each in self._workflows.items() if _at(position, each).active is not None]
        await self._requests.meet(request, versions.active, known)

    async def _match_unkeyed(self, arrival: Arrival, versions: _Versions) -> None:
        assert versions.active is not None
        definition = await self._registry.definition(versions.active.digest)
        if self._starts(arrival, definition):
            await self._start_run(arrival, definition, arrival.published.key)

    async def _match_one_run(self, arrival: Arrival) -> None:
        run = arrival.published.run
        rows = await self._session.fetch(self._open_run, (run,))
        if rows and run is not None:
            arrival.deliver(rows[0][0], run)
        else:
            arrival.reasons.append(f"there is no open run {run}")

    def _starts(self, arrival: Arrival, definition: Definition) -> bool:
        if starts_run(definition, arrival.occurrence):
            return True
        if arrival.published.name in definition.entries:
            arrival.reasons.append(f"{definition.workflow_id}: `where` is not true of it")
        return False

    async def _match_keyed(self, arrival: Arrival, versions: _Versions) -> None:
        """One open run a key: the event goes to it, and starts one only where there is none.

        A run gets the event by its own version's key. The active version's is everybody's: whichever run has that
        one, no other is started.
        """
        workflow_id = versions.so_far[-1].workflow_id
        started = run_for_event(arrival.recorded.stream, workflow_id)
        keys, active = await self._keys(arrival, versions)
        while keys:
            rows = await self._session.fetch(self._keyed_runs, (list(keys), workflow_id, started))
            runs = {key: (run, digest) for run, key, digest in rows}
            # Under no key: the event was here before, and nobody lived to record it. Its own key was free then.
            has_started = runs.pop(None, None) is not None and active is not None
            own = runs.pop(active.key, None) if active is not None else None
            if has_started:
                arrival.start(workflow_id, started)
            elif own is not None:
                arrival.deliver(workflow_id, own[0])
            for key, (run, digest) in runs.items():
                if digest in keys[key]:
                    arrival.deliver(workflow_id, run)
            if has_started or own is not None or active is None or not self._starts(arrival, active.definition):
                return
            try:
                await self._start_run(arrival, active.definition, active.key)
                return
            except AppendRefused as error:
                if error.constraint != OPEN_KEY:
                    raise
                # A run with this key was started by other means just now: look again.

    async def _keys(self, arrival: Arrival, versions: _Versions) -> tuple[dict[str, set[str]], _Key | None]:
        """The digests of the versions by the key that each finds in the event, and what the active one may start."""
        keys: defaultdict[str, set[str]] = defaultdict(set)
        active: _Key | None = None
        for version in versions.so_far:
            if not version.keyed or arrival.published.name not in version.events:
                continue
            definition = await self._registry.definition(version.digest)
            try:
                key = key_of(definition, arrival.occurrence)
            except (TemplateError, NoKey) as error:
                if version is versions.active:
                    arrival.ignore(version.workflow_id, str(error))
                continue
            keys[key].add(version.digest)
            if version is versions.active:
                active = _Key(key, definition)
        return keys, active

    async def _start_run(self, arrival: Arrival, definition: Definition, key: str | None) -> None:
        run = run_for_event(arrival.recorded.stream, definition.workflow_id)
        order = StartOrder(run, definition, arrival.occurrence, arrival.recorded.position, key)
        await self._start(order)
        arrival.start(definition.workflow_id, run)

    async def _match_waits(self, arrivals: Sequence[Arrival]) -> None:
        """Deliver to every run that waited before the event came; keyed ones got theirs by their key."""
        public = [arrival for arrival in arrivals if arrival.published.run is None]
        rows = await self._session.fetch(self._waiting, (list({arrival.published.name for arrival in public}),))
        for arrival in public:
            for event, run, armed_at, workflow_id in rows:
                if event == arrival.published.name and armed_at < arrival.recorded.position:
                    arrival.deliver(workflow_id, run)

    async def _record(self, published: RecordedEvent, matches: Sequence[Match], reason: str) -> None:
        inbox = [
            {"run": match.run, "shard": shard_of(match.run), "kind": "event", "event": published.stream}
            for match in matches
            if match.outcome == "delivered" and match.run is not None
        ]
        try:
            fact = EventRouted(matches=tuple(matches), reason=reason)
            work = {"inbox": inbox} if inbox else None
            # Whose runs they are may be another node's, and so may be who waits for the fact.
            await self._appender.append(
                Append(published.stream, published.head, [encode_fact(fact)], work, announce=bool(inbox))
            )
        except Conflict:
            # Another router was first.
            return
        except Exception as error:
            if isinstance(error, LogError) and not isinstance(error, AppendRefused):
                raise
            log.exception("what an event met could not be recorded", stream=str(published.stream))

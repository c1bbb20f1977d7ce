"""What a program asks of Perdure: publish, start, register, wait. Works with or without a node in this process."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from perdure.encryption import refuse_without_key
from perdure.errors import RunCancelled, RunErased, RunFailed, RunTimedOut, StartRefused, StillOpen
from perdure.starts import Order, Starts
from perdure_engine.arrivals import wrong_key
from perdure_engine.background import endlessly
from perdure_engine.definitions.names import RESERVED_EVENTS, wrong_event_name
from perdure_engine.doctor.doctor import Diagnosis, Doctor
from perdure_engine.erasure import Erasure, ErasureRefused
from perdure_engine.facts import EventPublished, EventRouted, decode_fact, encode_fact
from perdure_engine.history import Loaded, RunArchived, UnknownRun, fold_tail, load_run, load_short
from perdure_engine.identity import new_id
from perdure_engine.node import Node
from perdure_engine.open_runs import AskedTogether, OpenRuns
from perdure_engine.reasons import wrong_reason
from perdure_engine.registry import Registered, Registration, Registry
from perdure_engine.run.commands import StartRun
from perdure_engine.run.state import RunState
from perdure_engine.schedules.book import Book
from perdure_engine.sealing import sealing_of
from perdure_engine.snapshots import Snapshots
from perdure_engine.staging import Call, Command, command_call, start_call
from perdure_engine.starting import append_start, key_is_open
from perdure_engine.task_types import TaskTypes
from perdure_engine.work import OPEN_KEY, WorkStatement
from perdure_eventstore.append import Append
from perdure_eventstore.appender import Appender
from perdure_eventstore.door import Json
from perdure_eventstore.errors import AppendRefused, Conflict, FenceLost
from perdure_eventstore.events import NO_STREAM
from perdure_eventstore.keeper import ARCHIVED, Erased, Keeper
from perdure_eventstore.patience import patiently
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

_POLL = 0.002
_MOST_POLL = 0.25


class Client:
    """Talks to the log through one session and one appender of its own."""

    def __init__(
        self, engine: AsyncEngine, types: TaskTypes, schema: str, patience: float, vault: "Vault | None" = None
    ) -> None:
        """``patience`` is how many seconds an append waits for a database that cannot be reached."""
        self.engine, self.schema, self.vault = engine, schema, vault
        self.node: Node | None = None
        self._types, self._patience = types, patience
        self._session = Session(engine)
        self.reader, self._snapshots = (
            Reader(self._session, schema, vault),
            Snapshots(self._session, schema, sealing=sealing_of(vault)),
        )
        self._open_runs = OpenRuns(self._session, schema)
        self._load_together = AskedTogether(lambda runs: load_short(self.reader, self.registry, runs, self._snapshots))
        self._open_key = f'select run from "{schema}".open_runs where workflow_id = %s and key = %s'
        self._announced = f"""select distinct unnest(task_types) from "{schema}".nodes
            where alive_until > clock_timestamp()"""
        self.appender = self._new_appender()
        self.registry = Registry(self._session, self.appender, schema)
        self.schedules = Book(self._session, lambda: self.appender, self.registry, schema, vault)
        self._key_checked = vault is not None
        self._starts = Starts(self.reader, self.registry, lambda: self.appender.clock.moment())

    async def run(self) -> None:
        """Append what is asked for; cancel to end."""
        try:
            await endlessly(self._append)
        finally:
            await self._open_runs.close()
            await self._load_together.close()
            await self._session.close()

    async def _append(self) -> None:
        try:
            await self.appender.run()
        except Exception:
            # Whoever waited for it has been told. What comes from now on waits for the next one.
            self.appender = self.registry.appender = self._new_appender()
            raise

    def _new_appender(self) -> Appender:
        statement = WorkStatement(self.schema)
        return Appender(self.engine, statement, patience=self._patience, schema=self.schema, vault=self.vault)

    async def register(self, document: object, *, allow_unknown_types: bool = False) -> Registered:
        """See App.register. Known are this program's task types, and by name those that running nodes announce."""
        rows = await self._session.fetch(self._announced)
        known: dict[str, dict[str, Any]] = {name: {} for (name,) in rows} | self._types.schemas()
        return await self.registry.register(document, known_types=known, allow_unknown_types=allow_unknown_types)

    async def check_key(self) -> None:
        """Raise VaultError where payloads are encrypted and this program cannot do so. Asked once."""
        if not self._key_checked:
            await patiently(lambda: refuse_without_key(self._session, self.schema), within=self._patience)
            self._key_checked = True

    async def publish(self, event: EventPublished, event_id: UUID | None) -> "Published":
        """See App.publish."""
        check_event(event, event_id)
        await self.check_key()
        stream = event_id or new_id()
        append = Append(stream, NO_STREAM, [encode_fact(event, id_=stream)], announce=True)
        try:
            appended = await self.appender.append(append)
            position = appended.positions[0]
        except Conflict:
            position = await self._same_event(stream, event)
        self._hint()
        return Published(lambda: self, stream, position)

    async def start(
        self, workflow_id: str, input_: Json, event: str | None, key: str | None, run_id: UUID | None
    ) -> "Run":
        """See App.start."""
        await self.check_key()
        order = Order(workflow_id, input_, event, key)
        found = await self._starts.decide(order, as_id("run_id", run_id))
        if isinstance(found, UUID):
            return Run(self, found)
        state, command = found
        try:
            if not await self._start(state, command) and not await self._starts.is_there(state.run_id, order):
                raise StartRefused(f"{state.run_id} is no run, but the id of something else; choose another run id")
        except AppendRefused as error:
            if error.constraint != OPEN_KEY:
                raise
            raise StartRefused(key_is_open(workflow_id, key)) from error
        return Run(self, state.run_id)

    async def erase(self, stream: UUID, reason: str, actor: str, archive: Path | None = None) -> Erased:
        """See App.erase."""
        check_run_id(stream)
        for what, said in (("the reason of an erasure", reason), ("the actor of an erasure", actor)):
            if why := wrong_reason(said, what):
                raise ErasureRefused(why)
        await self.check_key()
        # Nothing that shows it may outlive it: a snapshot goes first.
        await self._snapshots.delete(stream)
        keeper = Keeper(self._session, self.schema, self.vault)
        erased = await Erasure(self._session, keeper, self.schema).erase(stream, reason, actor, archive)
        if self.node and self.node.tenure:
            self.node.tenure.endings.drop(stream)
        return erased

    async def doctor(self, *, repair: bool) -> Diagnosis:
        """See App.doctor."""
        doctor = Doctor(self.engine, self.schema, self.registry.definition, self.vault)
        return await (doctor.repair() if repair else doctor.look())

    async def stage_start(
        self, workflow_id: str, input_: Json, event: str | None, key: str | None, run_id: UUID | None
    ) -> tuple["Run", Call | None]:
        """A run, and the call that starts it in somebody's transaction; none if it is there already."""
        order = Order(workflow_id, input_, event, key)
        as_id("run_id", run_id)
        if run_id is not None and await self._starts.is_there(run_id, order):
            return Run(self, run_id), None
        found = await self._starts.decide(order, run_id)
        if isinstance(found, UUID):
            return Run(self, found), None
        state, command = found
        # It may yet be taken when the caller commits; then the commit is refused.
        if state.definition.key is not None and await self._session.fetch(self._open_key, (workflow_id, key)):
            raise StartRefused(key_is_open(workflow_id, key))
        return Run(self, state.run_id), start_call(state, command)

    async def command(self, run: UUID, command: Command, reason: str) -> None:
        """See App.cancel, App.pause and App.resume."""
        call = command_call(check_run_id(run), command, check_reason(reason))
        await self._starts.check_known(run)
        await self._session.fetch(call.sql(self.schema, lambda _: "%s"), call.values)
        if self.node and self.node.tenure:
            self.node.tenure.feed.hint()

    async def wait(self, run: UUID, timeout: float | None) -> RunState:
        """The run's state once it has ended. Raises StillOpen, UnknownRun, RunErased."""
        try:
            async with asyncio.timeout(timeout):
                return await self._wait(run)
        except TimeoutError:
            raise StillOpen(run, timeout or 0.0) from None

    async def state(self, run: UUID) -> RunState:
        """The run's state now. Raises UnknownRun."""
        try:
            return (await self.load(run)).state
        except UnknownRun:
            if await self._starts.is_asked_for(run):
                raise UnknownRun(run, "it was asked for, and a node has yet to start it") from None
            raise

    async def _wait(self, run: UUID) -> RunState:
        pause, known = _POLL, None
        while True:
            if (state := await self._until_closed(run)) is not None:
                return state
            known = await self._further(run, known)
            if known is not None and known.state.is_ended:
                if known.erased:
                    raise RunErased(run, str(known.state.status))
                return known.state
            await asyncio.sleep(pause)
            pause = min(pause * 1.3, _MOST_POLL)

    async def _until_closed(self, run: UUID) -> RunState | None:
        """Wait until the run is not open; its last state, if this process was told of that."""
        while (tenure := self.node.tenure if self.node else None) is not None:
            if (state := tenure.endings.get(run)) is not None:
                return state
            if not tenure.holder.is_held(run):
                await self._open_runs.until_closed(run, partial(tenure.endings.wait, run))
                return tenure.endings.get(run)
            # Until it ends, or is another node's.
            await tenure.endings.wait(run, _MOST_POLL)
        await self._open_runs.until_closed(run)
        return None

    async def load(self, run: UUID) -> Loaded:
        """The run as its events are now. Raises UnknownRun."""
        return await load_run(self.reader, self.registry, run, self._snapshots)

    async def _further(self, run: UUID, known: Loaded | None) -> Loaded | None:
        """The run as it is by now. None for one that was asked for in SQL and that a node has yet to start."""
        if known is not None:
            return await fold_tail(self.reader, self.registry, known)
        try:
            # Of many that end at once, the short ones are read in one go.
            return (await self._load_together(run)).get(run) or await self.load(run)
        except RunArchived:
            raise
        except UnknownRun:
            if await self._starts.is_asked_for(run):
                return None
            raise

    async def routed(self, event: UUID, timeout: float | None) -> EventRouted:
        """What a published event met, once a node has routed it. Raises TimeoutError."""
        pause = _POLL
        async with asyncio.timeout(timeout):
            while True:
                async for recorded in self.reader.stream(event, after=1):
                    if recorded.type == ARCHIVED:
                        raise RunArchived(event, recorded.data)
                    routed: EventRouted = decode_fact(recorded)
                    return routed
                await asyncio.sleep(pause)
                pause = min(pause * 1.3, _MOST_POLL)

    async def _start(self, state: RunState, command: StartRun) -> bool:
        tenure = self.node.tenure if self.node else None
        if tenure is not None:
            try:
                return await tenure.starts.start_run(state, command)
            except FenceLost:
                # The node will join anew; a client may start a run at any time.
                pass
        return await append_start(self.appender, state, command)

    async def _same_event(self, stream: UUID, event: EventPublished) -> int:
        async for recorded in self.reader.stream(stream, batch=1):
            if recorded.type == ARCHIVED or (recorded.payload is None and recorded.payload_digest is not None):
                gone = "archived" if recorded.type == ARCHIVED else "erased"
                raise StartRefused(f"event {stream} was published before, and {gone} since; choose another id")
            if recorded.type == "EventPublished" and decode_fact(recorded) == event:
                return recorded.position
            break
        raise StartRefused(f"event {stream} was published before with other content; choose another id")

    def _hint(self) -> None:
        if self.node and self.node.tenure:
            self.node.tenure.feed.hint()


def check_event(event: EventPublished, event_id: UUID | None) -> None:
    """Raise StartRefused unless ``event`` can be published under ``event_id``."""
    if not isinstance(event.name, str):
        raise StartRefused(f"an event's name is text, not {event.name!r:.60}")
    as_id("event_id", event_id)
    as_id("run", event.run)
    if event.name in RESERVED_EVENTS:
        raise StartRefused(f"{event.name!r} is one of the engine's own event names; choose another")
    if why := wrong_event_name(event.name) or wrong_key(event.key):
        raise StartRefused(why)


def check_reason(reason: str) -> str:
    """``reason`` if it can be recorded. Raises StartRefused."""
    if why := wrong_reason(reason):
        raise StartRefused(why)
    return reason


def as_json(value: Any) -> Json:
    """``value`` as JSON that the log keeps exactly; a Json of the user's own making is read again, as text is."""
    return Json.parse(value.text) if isinstance(value, Json) else Json.of(value)


def as_id(what: str, value: UUID | None) -> UUID | None:
    """``value`` if it is an id, or none. Raises StartRefused."""
    if value is not None and not isinstance(value, UUID):
        raise StartRefused(f"{what} is a uuid.UUID, not {value!r:.60}")
    return value


def check_run_id(run_id: UUID) -> UUID:
    """``run_id`` if it is an id. Raises StartRefused."""
    if not isinstance(run_id, UUID):
        raise StartRefused(f"run_id is a uuid.UUID, not {run_id!r:.60}")
    return run_id


class Published:
    """A published event: its ``event_id`` and its ``position`` in the log, None for one that is not committed yet."""

    def __init__(self, client: Callable[[], Client], event_id: UUID, position: int | None) -> None:
        """``client`` is asked for when it is needed."""
        self._client = client
        self.event_id, self.position = event_id, position

    async def routed(self, timeout: float | None = 30.0) -> EventRouted:
        """What it met, workflow by workflow, once a node has routed it. Raises TimeoutError."""
        return await self._client().routed(self.event_id, timeout)

    async def runs(self, timeout: float | None = 30.0) -> list["Run"]:
        """The runs it started or reached, once a node has routed it. Raises TimeoutError."""
        routed = await self.routed(timeout)
        return [Run(self._client(), match.run) for match in routed.matches if match.run is not None]


class Run:
    """A run, by its id."""

    def __init__(self, client: Client, run_id: UUID) -> None:
        self._client = client
        self.run_id = run_id

    async def state(self) -> RunState:
        """Its state now, folded from its events (``perdure_engine.run.RunState``). Raises UnknownRun."""
        return await self._client.state(self.run_id)

    async def status(self) -> str:
        """ "open", "paused", "stopping", "completed", "failed", "timed_out" or "cancelled". Raises UnknownRun."""
        return (await self.state()).shown_status

    async def result(self, timeout: float | None = None) -> Any:
        """What the run gave, once it has completed: its ``output`` template, or its tasks' outputs by id.

        ``timeout`` is seconds; without one it waits for ever. Raises RunFailed, RunCancelled, RunTimedOut; StillOpen
        when the time is over, which leaves the run alone; UnknownRun; RunErased.
        """
        state = await self._client.wait(self.run_id, timeout)
        match state.status:
            case "completed":
                return state.result().value
            case "cancelled":
                why = state.stop_reason
                raise RunCancelled(self.run_id, f"was cancelled: {why}" if why else "was cancelled")
            case "timed_out":
                raise RunTimedOut(self.run_id, "took longer than its deadline")
        raise RunFailed(self.run_id, f"failed: {_why(state)}", state.error)

    def __repr__(self) -> str:
        return f"Run({self.run_id})"


def _why(state: RunState) -> str:
    if state.error is not None:
        return str(state.error.value.get("message", state.error.value))
    reasons = [
        f"{task_id}: {error.value.get('message', '')}"
        for task_id in sorted(state.unhandled)
        if (error := state.task(task_id).error) is not None
    ]
    return "; ".join(reasons) or "a task failed"


__all__ = ["Client", "Published", "Registration", "Run", "as_json"]

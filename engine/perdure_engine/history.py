"""A run out of its events."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import msgspec
import structlog

from perdure_engine.registry import Registry
from perdure_engine.run import RunState, evolve, new_run
from perdure_engine.run.codec import decode
from perdure_engine.run.events import RunStarted
from perdure_engine.snapshots import Snapshots
from perdure_eventstore.errors import LogError
from perdure_eventstore.events import NO_STREAM, Head, RecordedEvent
from perdure_eventstore.keeper import ARCHIVED, ERASED, KEEPING
from perdure_eventstore.read import Reader
from perdure_eventstore.vault.errors import VaultError

log = structlog.get_logger(__name__)

_PAGE = 1_000
_SHORT = 200
"""Events of a run that is read together with others."""


class Loaded(NamedTuple):
    """A run's state and the head of its stream it was folded up to."""

    state: RunState
    head: Head
    size: int = 0
    """Bytes of the events it was folded from, roughly."""
    erased: bool = False
    """Its payloads were erased, and read as null."""
    archived: str | None = None
    """The name of the file that its events were moved to."""


class UnknownRun(LookupError):
    """No run has this id. ``why`` is what was recorded of one that was asked for and not started."""

    def __init__(self, run: UUID, why: str = "", sentence: str = "") -> None:
        self.run = run
        super().__init__(sentence or f"there is no run {run}" + (f": {why}" if why else ""))


class RunArchived(UnknownRun):
    """The run's events are in an archive file; what is in the log is that they were moved there."""

    def __init__(self, run: UUID, data: bytes) -> None:
        """``data`` is that of its StreamArchived."""
        self.file = file_of(data)
        super().__init__(run, sentence=f"run {run} was archived: its events are in {self.file}")


async def load_run(reader: Reader, registry: Registry, run: UUID, snapshots: Snapshots | None = None) -> Loaded:
    """Fold the run's stream, a long one from its newest snapshot on.

    Raises UnknownRun, RunArchived, UnreadableEvent, LogError, VaultError.
    """
    loaded: Loaded | None = None
    page = min(_PAGE, snapshots.worth) if snapshots else _PAGE
    async for recorded in reader.stream(run, batch=page):
        if loaded is None:
            loaded = await _begin(registry, run, recorded)
        loaded = _fold(loaded, recorded)
        if snapshots is not None and recorded.version == snapshots.worth:
            newest = await snapshots.newest(run, loaded.state.definition, recorded.version)
            return await fold_tail(reader, registry, Loaded(*newest) if newest else loaded)
    if loaded is None:
        raise UnknownRun(run)
    return loaded


async def load_short(
    reader: Reader, registry: Registry, runs: Sequence[UUID], snapshots: Snapshots
) -> dict[UUID, Loaded]:
    """Those of ``runs`` that are short, folded from one read. Whatever is the matter with another, ``load_run`` says.

    Raises LogError.
    """
    found: dict[UUID, Loaded] = {}
    short = min(_SHORT, snapshots.worth - 1)
    try:
        streams = await reader.firsts(runs, short + 1)
    except VaultError:
        return found
    for run, events in streams.items():
        if len(events) > short:
            continue
        try:
            found[run] = _fold_all(await _begin(registry, run, events[0]), events)
        except LogError:
            raise
        except Exception as error:
            log.debug("a run is left to be read alone", run=str(run), error=str(error))
    return found


async def fold_tail(reader: Reader, registry: Registry, known: Loaded) -> Loaded:
    """Bring a state up to date with what was appended after its head."""
    run = known.state.run_id
    if known.head.version == 0:
        return await load_run(reader, registry, run)
    async for recorded in reader.stream(run, after=known.head.version):
        known = _fold(known, recorded)
    return known


def file_of(data: bytes) -> str:
    """The name of the file that a StreamArchived with these data says."""
    return str(msgspec.json.decode(data)["file"])


async def _begin(registry: Registry, run: UUID, recorded: RecordedEvent) -> Loaded:
    """The run before its first event. Raises RunArchived; UnknownRun for a stream that is something else."""
    if recorded.type == ARCHIVED:
        raise RunArchived(run, recorded.data)
    if recorded.type != RunStarted.__name__:
        raise UnknownRun(run)
    started = decode(recorded)
    assert isinstance(started, RunStarted)
    return Loaded(new_run(await registry.definition(started.digest), run), NO_STREAM)


def _fold_all(loaded: Loaded, events: Sequence[RecordedEvent]) -> Loaded:
    """All the events of a run at once."""
    if any(event.type in KEEPING for event in events):
        for event in events:
            loaded = _fold(loaded, event)
        return loaded
    state, size = loaded.state, loaded.size
    for event in events:
        state = evolve(state, decode(event))
        size += len(event.data) + len(event.payload or b"")
    return loaded._replace(state=state, head=events[-1].head, size=size)


def _fold(loaded: Loaded, recorded: RecordedEvent) -> Loaded:
    if recorded.type in KEEPING:
        archived = file_of(recorded.data) if recorded.type == ARCHIVED else loaded.archived
        return loaded._replace(head=recorded.head, erased=loaded.erased or recorded.type == ERASED, archived=archived)
    size = len(recorded.data) + len(recorded.payload or b"")
    return loaded._replace(
        state=evolve(loaded.state, decode(recorded)), head=recorded.head, size=loaded.size + size
    )  # fmt: skip

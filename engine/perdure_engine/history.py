"""A run out of its events."""

from typing import NamedTuple
from uuid import UUID

import msgspec

from perdure_engine.registry import Registry
from perdure_engine.run import RunState, evolve, new_run
from perdure_engine.run.codec import decode
from perdure_engine.run.events import RunStarted
from perdure_eventstore.events import NO_STREAM, Head
from perdure_eventstore.keeper import ARCHIVED, ERASED, KEEPING
from perdure_eventstore.read import Reader


class Loaded(NamedTuple):
    """A run's state and the head of its stream it was folded up to."""

    state: RunState
    head: Head
    erased: bool = False
    """Its payloads were erased, and read as null."""
    archived: str | None = None
    """The name of the file that its events were moved to."""


class UnknownRun(LookupError):
    """No run has this id."""

    def __init__(self, run: UUID, sentence: str = "") -> None:
        self.run = run
        super().__init__(sentence or f"there is no run {run}")


class RunArchived(UnknownRun):
    """The run's events are in an archive file; what is in the log is that they were moved there."""

    def __init__(self, run: UUID, file: str) -> None:
        self.file = file
        super().__init__(run, f"run {run} was archived: its events are in {file}")


async def load_run(reader: Reader, registry: Registry, run: UUID) -> Loaded:
    """Fold the run's stream. Raises UnknownRun, RunArchived."""
    state, head, erased, archived = None, NO_STREAM, False, b""
    async for recorded in reader.stream(run):
        if recorded.type in KEEPING:
            if state is None:
                raise RunArchived(run, _file(recorded.data))
            head, erased = recorded.head, erased or recorded.type == ERASED
            archived = recorded.data if recorded.type == ARCHIVED else archived
            continue
        if recorded.type == "EventPublished" or recorded.type.startswith("Definition"):
            break
        event = decode(recorded)
        if state is None:
            if not isinstance(event, RunStarted):
                break
            state = new_run(await registry.definition(event.digest), run)
        state, head = evolve(state, event), recorded.head
    if state is None:
        raise UnknownRun(run)
    return Loaded(state, head, erased, _file(archived) if archived else None)


async def fold_tail(reader: Reader, registry: Registry, run: UUID, state: RunState, head: Head) -> Loaded:
    """Bring a state up to date with what was appended after ``head``."""
    if head.version == 0:
        return await load_run(reader, registry, run)
    async for recorded in reader.stream(run, after=head.version):
        if recorded.type not in KEEPING:
            state = evolve(state, decode(recorded))
        head = recorded.head
    return Loaded(state, head)


def _file(data: bytes) -> str:
    return str(msgspec.json.decode(data)["file"])

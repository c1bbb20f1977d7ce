"""A run out of its events."""

from typing import NamedTuple
from uuid import UUID

from perdure_engine.facts import FACT_TYPES
from perdure_engine.registry import Registry
from perdure_engine.run import RunState, evolve, new_run
from perdure_engine.run.codec import decode
from perdure_engine.run.events import RunStarted
from perdure_eventstore.events import NO_STREAM, Head
from perdure_eventstore.read import Reader


class Loaded(NamedTuple):
    """A run's state and the head of its stream it was folded up to."""

    state: RunState
    head: Head


class UnknownRun(LookupError):
    """No run has this id. ``why`` is what was recorded of one that was asked for and not started."""

    def __init__(self, run: UUID, why: str = "") -> None:
        self.run = run
        super().__init__(f"there is no run {run}" + (f": {why}" if why else ""))


async def load_run(reader: Reader, registry: Registry, run: UUID) -> Loaded:
    """Fold the run's stream. Raises UnknownRun."""
    state, head = None, NO_STREAM
    async for recorded in reader.stream(run):
        if recorded.type in FACT_TYPES:
            break
        event = decode(recorded)
        if state is None:
            if not isinstance(event, RunStarted):
                break
            state = new_run(await registry.definition(event.digest), run)
        state, head = evolve(state, event), recorded.head
    if state is None:
        raise UnknownRun(run)
    return Loaded(state, head)


async def fold_tail(reader: Reader, registry: Registry, run: UUID, state: RunState, head: Head) -> Loaded:
    """Bring a state up to date with what was appended after ``head``."""
    if head.version == 0:
        return await load_run(reader, registry, run)
    async for recorded in reader.stream(run, after=head.version):
        state, head = evolve(state, decode(recorded)), recorded.head
    return Loaded(state, head)

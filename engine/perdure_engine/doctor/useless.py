"""Timers from which nothing follows. A node deletes those as they fire, and the log does not speak of it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from perdure_engine.doctor.snapshot import Snapshot
from perdure_engine.run import RunState, advance, evolve, new_run
from perdure_engine.run.codec import decode
from perdure_engine.run.events import RunStarted
from perdure_engine.timers import Timer
from perdure_eventstore.keeper import KEEPING
from perdure_eventstore.read import Reader

_LONG_AGO = datetime.fromtimestamp(0, UTC)


async def useless_of(log: Snapshot, run: UUID, timers: Sequence[str]) -> list[str]:
    """Those of ``timers`` that make no difference to the run as it is. Raises LogError."""
    state = await _state(log, run)
    return [] if state is None else [timer for timer in timers if not _makes_a_difference(state, timer)]


async def _state(log: Snapshot, run: UUID) -> RunState | None:
    """The run without what users gave to it, on which no timer depends; None without its definition."""
    state: RunState | None = None
    async for recorded in Reader(log.session, log.schema).stream(run, payloads=False):
        if recorded.type in KEEPING:
            continue
        event = decode(recorded._replace(payload=None))
        if isinstance(event, RunStarted):
            try:
                state = new_run(await log.definition(event.digest), run)
            except KeyError:
                return None
        assert state is not None
        state = evolve(state, event)
    return state


def _makes_a_difference(state: RunState, timer: str) -> bool:
    moment = _LONG_AGO
    try:
        return bool(advance(state, Timer(state.run_id, timer, moment).command(moment))[0])
    except Exception:
        # What cannot be decided makes the run fail.
        return True

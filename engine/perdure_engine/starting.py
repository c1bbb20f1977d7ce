"""Starting a run without holding it: a client's way, and a node's for a run of somebody else's shard."""

from perdure_engine.identity import shard_of
from perdure_engine.run import advance
from perdure_engine.run.codec import encode
from perdure_engine.run.commands import StartRun
from perdure_engine.run.state import RunState
from perdure_engine.work import work_of
from perdure_eventstore.append import Append
from perdure_eventstore.appender import Appender
from perdure_eventstore.errors import Conflict
from perdure_eventstore.events import NO_STREAM


async def append_start(appender: Appender, state: RunState, command: StartRun, armed_at: int | None = None) -> bool:
    """Record the start and what follows from it; the shard's owner is told to go on. False: it was there already."""
    events, state = advance(state, command)
    work = work_of(state.run_id, events, armed_at)
    work["inbox"] = [{"run": state.run_id, "shard": shard_of(state.run_id), "kind": "started", "event": None}]
    append = Append(state.run_id, NO_STREAM, [encode(event, b"{}") for event in events], work, announce=True)
    try:
        await appender.append(append)
    except Conflict:
        return False
    return True

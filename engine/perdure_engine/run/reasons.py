"""Why a task will not run, and why an event changed nothing, in words for people."""

from collections.abc import Iterable

from perdure_engine.definitions.definition import Clause, TaskEnd
from perdure_engine.run.evolve import holds
from perdure_engine.run.state import DEAD, ENDED, RunState

_SHOWN = 6
"""Reasons a sentence gives."""

_WENT = {"completed": "completed", "failed": "failed", "skipped": "was skipped", "cancelled": "was cancelled"}


def why_skipped(state: RunState, task_id: str) -> str:
    """For each clause of a waiting task the condition that keeps it from ever coming true."""
    clauses = zip(state.definition.tasks[task_id].clauses, state.task(task_id).lacks, strict=True)
    found = list(dict.fromkeys(_why_dead(state, clause) if lacks == DEAD else _why_stuck(clause)
                               for clause, lacks in clauses))  # fmt: skip
    more = f"; and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more


def why_stopped(state: RunState) -> str:
    """For what is left of a run that is stopping or fails."""
    if state.outcome:
        return f"the run is stopping: {state.stop_reason}" if state.stop_reason else "the run is stopping"
    failed = sorted(state.unhandled)
    more = f" and {len(failed) - _SHOWN:,} more" if len(failed) > _SHOWN else ""
    return f"the run fails: {', '.join(failed[:_SHOWN])}{more} failed"


def why_ignored(state: RunState, listeners: Iterable[int]) -> str:
    """For an event that reached the run; ``listeners`` are the triggers of its name."""
    if state.status != "open":
        return f"the run is {state.status}"
    if any(trigger in state.live_waits for trigger in listeners):
        return "`where` is not true of it"
    if any(trigger in state.latched for trigger in listeners):
        return "an earlier one was taken"
    if any(trigger in state.expired for trigger in listeners):
        return "its time was over"
    return "nothing in this run waits for it"


def _why_dead(state: RunState, clause: Clause) -> str:
    for end in clause.ends:
        if _is_dead(state, end):
            assert end.task_id is not None
            return f"{end.task_id} {_WENT[state.task(end.task_id).status]}, not {end.on}"
    for trigger in (state.definition.events[index] for index in clause.events):
        if trigger.entry and trigger.index not in state.latched:
            return f"not triggered by {trigger.name}"
        if trigger.index in state.expired:
            return f"{trigger.name} did not come in time"
    raise AssertionError("a clause died of nothing")


def _why_stuck(clause: Clause) -> str:
    """Only a completion could go on with this clause, and the run has come to rest."""
    bare = any(end.task_id is None for end in clause.ends)
    return "no other task completed" if bare else "`where` was true of no task that completed"


def _is_dead(state: RunState, end: TaskEnd) -> bool:
    if end.task_id is None:
        return False
    status = state.task(end.task_id).status
    return status in ENDED and not holds(end.on, status, state.definition.tasks[end.task_id].proceed_on_failure)

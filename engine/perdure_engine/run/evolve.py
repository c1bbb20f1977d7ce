"""How each event changes the state of a run. Total and unconditional: what is recorded has happened."""

from collections.abc import Iterable
from typing import assert_never

from immutables import Map, MapMutation
from msgspec.structs import replace

from perdure_engine.definitions.definition import On
from perdure_engine.run import events as e
from perdure_engine.run.state import DEAD, PENDING, Occurrence, RunState, TaskState, TaskStatus, untouched
from perdure_eventstore.door import Json


def evolve(state: RunState, event: e.RunEvent) -> RunState:  # noqa: C901 - one line a type of event is the shortest way
    """The state after ``event``."""
    match event:
        case e.TaskCompleted():
            return _ended(state, event.task_id, "completed", output=event.output)
        case e.TaskScheduled():
            return _readied(state, event, "scheduled", event.attempt)
        case e.TaskStarted():
            return _task_started(state, event)
        case e.RunStarted():
            return _started(state, event)
        case e.TaskFailed() | e.TaskTimedOut():
            return _failed(state, event)
        case e.TaskDelayed():
            return _readied(state, event, "delayed", attempt=0)
        case e.TaskInterrupted():
            task = state.task(event.task_id)
            task = replace(task, status="interrupted", crashes=task.crashes + (not event.clean), node=None)
            return replace(state, tasks=state.tasks.set(event.task_id, task))
        case e.TaskSkipped():
            return _ended(state, event.task_id, "skipped")
        case e.TaskCancelled():
            return _ended(state, event.task_id, "cancelled")
        case e.EventLatched():
            occurrence = Occurrence(event.event, event.payload, event.event_id, event.key)
            return _latch(_seen(state, event), event.triggers, occurrence)
        case e.EventIgnored():
            return _seen(state, event)
        case e.WaitExpired():
            return _kill_triggers(replace(state, expired=state.expired | {event.trigger}), (event.trigger,))
        case e.RunPaused():
            return replace(state, paused=True)
        case e.RunResumed():
            return replace(state, paused=False)
        case e.RunStopping():
            return replace(state, status="stopping", outcome=event.outcome, stop_reason=event.reason)
        case e.RunCompleted():
            return replace(state, status="completed", output=event.output)
        case e.RunFailed():
            return replace(state, status="failed", error=event.error)
        case e.RunTimedOut():
            return replace(state, status="timed_out")
        case e.RunCancelled():
            return replace(state, status="cancelled")
        case _:
            assert_never(event)


def _started(state: RunState, event: e.RunStarted) -> RunState:
    definition = state.definition
    start = Occurrence(event.event, event.input, event.event_id, event.key)
    dead = [
        trigger.index for trigger in definition.events if trigger.entry and trigger.index not in event.latched
    ]  # fmt: skip
    state = replace(
        state,
        status="open",
        input=event.input,
        start=start,
        live_waits=Map({t.index: len(definition.event_dependents[t.index]) for t in definition.events}),
        seen=Map({event.event_id: True}) if event.event_id else Map(),
    )
    return _kill_triggers(_latch(state, event.latched, start), dead)


def _task_started(state: RunState, event: e.TaskStarted) -> RunState:
    task = replace(
        state.task(event.task_id), status="started", attempt=event.attempt, node=event.node,
        at_most_once=event.at_most_once,
    )  # fmt: skip
    return replace(state, tasks=state.tasks.set(event.task_id, task))


def _readied(state: RunState, event: e.TaskScheduled | e.TaskDelayed, status: TaskStatus, attempt: int) -> RunState:
    """A task that waited for its triggers waits for its time or for a slot, or one on a timer for a slot."""
    task, active, waits = state.task(event.task_id), state.active, state.live_waits
    pending = state.pending + (status in PENDING) - (task.status in PENDING)
    if task.status == "waiting":
        active += 1
        waits = _lose_interest(state, event.task_id, task)
    inputs = task.inputs if event.inputs is None else event.inputs
    key = event.concurrency_key or task.concurrency_key
    task = replace(task, status=status, attempt=attempt, concurrency_key=key, inputs=inputs)
    return replace(state, tasks=state.tasks.set(event.task_id, task), active=active, pending=pending, live_waits=waits)


def _failed(state: RunState, event: e.TaskFailed | e.TaskTimedOut) -> RunState:
    task = state.task(event.task_id)
    task = replace(
        task,
        attempt=event.attempt,
        failures=task.failures + 1,
        error=event.error if isinstance(event, e.TaskFailed) else _timed_out(event),
    )
    if event.retry_at is not None:
        pending = state.pending - (task.status in PENDING)
        task = replace(task, status="retrying", node=None)
        return replace(state, tasks=state.tasks.set(event.task_id, task), pending=pending)
    state = replace(state, tasks=state.tasks.set(event.task_id, task))
    if not _is_handled(state, event.task_id):
        state = replace(state, unhandled=state.unhandled.set(event.task_id, True))
    return _ended(state, event.task_id, "failed")


def _is_handled(state: RunState, failed: str) -> bool:
    """Whether a failure counts as handled already: whether its handler was the slower one shall make no difference."""
    return state.definition.tasks[failed].proceed_on_failure or any(
        dependent.on == "failed" and state.task(dependent.task_id).status == "completed"
        for dependent in state.definition.end_dependents.get(failed, ())
    )


_LATE = {
    "start_to_close": "it took longer than",
    "schedule_to_start": "it did not start within",
    "heartbeat": "it gave no sign of life for",
}


def _timed_out(event: e.TaskTimedOut) -> Json:
    return Json.of({"type": "TimedOut", "message": f"{_LATE[event.limit]} {event.timeout:g} s"})


def _ended(state: RunState, task_id: str, status: TaskStatus, output: Json | None = None) -> RunState:
    """``task_id`` has ended as ``status``; every clause that waited for it counts that, or dies."""
    definition, task = state.definition, state.task(task_id)
    was_waiting = task.status == "waiting"
    waits = _lose_interest(state, task_id, task) if was_waiting else state.live_waits
    proceeds = status == "failed" and definition.tasks[task_id].proceed_on_failure
    unhandled, any_completed = state.unhandled, state.any_completed
    tasks = state.tasks.mutate()
    error = None if status == "completed" else task.error
    tasks[task_id] = replace(task, status=status, output=output, error=error, node=None)
    touched = [
        (dependent.task_id, dependent.clause, holds(dependent.on, status, proceeds))
        for dependent in definition.end_dependents.get(task_id, ())
    ]
    if status == "completed":
        if not any_completed:
            any_completed = True
            # If it waited for one too, it waits no more: any completion but its own.
            touched += [(d.task_id, d.clause, True) for d in definition.any_completion]
        for failed in definition.tasks[task_id].handles if unhandled else ():
            unhandled = unhandled.delete(failed) if failed in unhandled else unhandled
    return replace(
        state,
        live_waits=_count(state, tasks, touched, waits),
        tasks=tasks.finish(),
        active=state.active - (not was_waiting),
        pending=state.pending - (task.status in PENDING),
        ended=state.ended + 1,
        unhandled=unhandled,
        any_completed=any_completed,
    )


def holds(on: On, status: str, proceeds: bool) -> bool:
    """Whether a condition ``T.on`` is true of a task that ended as ``status``; ``proceeds``: failed, but continue."""
    if on == "ended" or on == status:
        return True
    return on == "done" and (status in ("completed", "skipped") or proceeds)


def _latch(state: RunState, triggers: Iterable[int], occurrence: Occurrence) -> RunState:
    tasks, waits, latched = state.tasks.mutate(), state.live_waits, state.latched
    for trigger in triggers:
        latched = latched.set(trigger, occurrence)
        waits = waits.delete(trigger) if trigger in waits else waits
        touched = [(d.task_id, d.clause, True) for d in state.definition.event_dependents[trigger]]
        waits = _count(state, tasks, touched, waits)
    return replace(state, tasks=tasks.finish(), latched=latched, live_waits=waits)


def _kill_triggers(state: RunState, triggers: Iterable[int]) -> RunState:
    tasks, waits = state.tasks.mutate(), state.live_waits
    for trigger in triggers:
        waits = waits.delete(trigger) if trigger in waits else waits
        touched = [(d.task_id, d.clause, False) for d in state.definition.event_dependents[trigger]]
        waits = _count(state, tasks, touched, waits)
    return replace(state, tasks=tasks.finish(), live_waits=waits)


def _count(
    state: RunState,
    tasks: "MapMutation[str, TaskState]",
    touched: Iterable[tuple[str, int, bool]],
    waits: "Map[int, int]",
) -> "Map[int, int]":
    """Count in ``tasks`` each clause that came closer, or mark it dead; returns the waits that are still live."""
    for task_id, clause, met in touched:
        spec = state.definition.tasks[task_id]
        task = tasks.get(task_id) or untouched(spec)
        lacks = task.lacks[clause]
        if task.status != "waiting" or lacks == DEAD:
            continue
        now = lacks - 1 if met else DEAD
        tasks[task_id] = replace(task, lacks=(*task.lacks[:clause], now, *task.lacks[clause + 1 :]))
        if not met:
            waits = _release(waits, spec.clauses[clause].events)
    return waits


def _lose_interest(state: RunState, task_id: str, task: TaskState) -> "Map[int, int]":
    """The waits that are still live once ``task_id`` waits no more."""
    waits = state.live_waits
    for clause, lacks in zip(state.definition.tasks[task_id].clauses, task.lacks, strict=True):
        if clause.events and lacks != DEAD:
            waits = _release(waits, clause.events)
    return waits


def _release(waits: "Map[int, int]", triggers: Iterable[int]) -> "Map[int, int]":
    for trigger in triggers:
        if (count := waits.get(trigger)) is not None:
            waits = waits.set(trigger, count - 1) if count > 1 else waits.delete(trigger)
    return waits


def _seen(state: RunState, event: e.EventLatched | e.EventIgnored) -> RunState:
    return replace(state, seen=state.seen.set(event.event_id, True)) if event.event_id else state

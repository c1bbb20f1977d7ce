"""What a command makes of a run: events, or none where there is nothing to do."""

from datetime import datetime, timedelta
from typing import assert_never

from perdure_engine.definitions.definition import EventTrigger
from perdure_engine.definitions.names import ANY_COMPLETION
from perdure_engine.run import commands as c
from perdure_engine.run import events as e
from perdure_engine.run.evolve import evolve
from perdure_engine.run.matching import matching_triggers
from perdure_engine.run.progress import Progress
from perdure_engine.run.state import Occurrence, RunState, TaskState
from perdure_eventstore.door import Json

MAX_CRASHES = 5
"""A handler that has taken its node with it so often is not given another."""


def decide(state: RunState, command: c.RunCommand) -> list[e.RunEvent]:
    """The events that follow from ``command``, in order; evolving ``state`` by them gives the next state.

    A command that comes too late, or again, gives none: a finished attempt is decided once.
    """
    return advance(state, command)[0]


def advance(state: RunState, command: c.RunCommand) -> tuple[list[e.RunEvent], RunState]:  # noqa: C901 - a line a type
    """``decide``, and the state that its events lead to."""
    if isinstance(command, c.BeginAttempt):
        # Nothing follows from a beginning, and this is every second command.
        return _begin(state, command)
    progress = Progress(state, command.at)
    match command:
        case c.CompleteAttempt():
            _complete(progress, command)
        case c.StartRun():
            _start(progress, command)
        case c.FailAttempt() | c.TimeOutAttempt():
            _fail(progress, command)
        case c.InterruptAttempt():
            _interrupt(progress, command)
        case c.CancelAttempt():
            if _is_under_way(progress, command.task_id, command.attempt):
                progress.end(e.TaskCancelled(task_id=command.task_id, attempt=command.attempt))
        case c.ReceiveEvent():
            _receive(progress, command)
        case c.FireTimer():
            _fire(progress, command)
        case c.PauseRun():
            if progress.state.status == "open" and not progress.state.paused:
                progress.record(e.RunPaused(reason=command.reason))
        case c.ResumeRun():
            if progress.state.status == "open" and progress.state.paused:
                progress.record(e.RunResumed(reason=command.reason))
        case c.StopRun():
            if progress.state.status == "open":
                progress.stop(command.outcome, command.reason)
        case _:
            assert_never(command)
    return progress.finish(), progress.state


def _start(progress: Progress, command: c.StartRun) -> None:
    definition = progress.state.definition
    if progress.state.status != "new":
        return
    start = Occurrence(command.event, command.input, command.event_id, command.key)
    # "start" fixes which entries count; a trigger's own condition still has to hold.
    latched = matching_triggers(definition, range(len(definition.events)), start, command.input)
    progress.record(
        e.RunStarted(
            workflow_id=definition.workflow_id,
            digest=definition.digest,
            event=command.event,
            event_id=command.event_id,
            key=command.key,
            keyed=definition.key is not None,
            latched=latched,
            waits=tuple(
                e.WaitArmed(trigger.index, trigger.name, _later(command.at, trigger.within))
                for trigger in definition.events
                if trigger.index not in latched and _is_wait(trigger)
            ),
            deadline=_later(command.at, definition.deadline),
            input=command.input,
        )
    )
    progress.follow_start()


def _is_wait(trigger: EventTrigger) -> bool:
    """Whether something outside the core has to know of it: a router, or a timer."""
    return not trigger.entry and (trigger.name != ANY_COMPLETION or trigger.within is not None)


def _later(at: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else at + timedelta(seconds=seconds)


def _begin(state: RunState, command: c.BeginAttempt) -> tuple[list[e.RunEvent], RunState]:
    task = state.task(command.task_id)
    if task.status != "scheduled" or state.status != "open" or state.paused:
        return [], state
    started = e.TaskStarted(
        task_id=command.task_id, attempt=task.attempt, node=command.node, at_most_once=command.at_most_once
    )
    return [started], evolve(state, started)


def _is_under_way(progress: Progress, task_id: str, attempt: int) -> bool:
    task = progress.state.task(task_id)
    return task.status == "started" and task.attempt == attempt


def _complete(progress: Progress, command: c.CompleteAttempt) -> None:
    if _is_under_way(progress, command.task_id, command.attempt):
        progress.end(e.TaskCompleted(task_id=command.task_id, attempt=command.attempt, output=command.output))


def _fail(progress: Progress, command: c.FailAttempt | c.TimeOutAttempt) -> None:
    if not _is_under_way(progress, command.task_id, command.attempt):
        return
    task_id, attempt, retry_at = command.task_id, command.attempt, _again(progress, command)
    event: e.TaskFailed | e.TaskTimedOut = (
        e.TaskFailed(task_id=task_id, attempt=attempt, retry_at=retry_at, error=command.error)
        if isinstance(command, c.FailAttempt)
        else e.TaskTimedOut(
            task_id=task_id, attempt=attempt, timeout=command.timeout, limit=command.limit, retry_at=retry_at
        )
    )
    _end_or_retry(progress, event)


def _again(progress: Progress, command: c.FailAttempt | c.TimeOutAttempt | c.FireTimer) -> datetime | None:
    """When the next attempt is due; None if there is to be none."""
    task = progress.state.task(command.task_id)
    if progress.state.status != "open" or (task.at_most_once and task.status == "started"):
        return None
    return command.retry_at if task.failures + 1 < command.max_attempts else None


def _end_or_retry(progress: Progress, event: e.TaskFailed | e.TaskTimedOut) -> None:
    if event.retry_at is None:
        progress.end(event)
    else:
        progress.record(event)


def _interrupt(progress: Progress, command: c.InterruptAttempt) -> None:
    task_id, attempt = command.task_id, command.attempt
    task = progress.state.task(task_id)
    if not _is_under_way(progress, task_id, attempt) or task.node is None:
        return
    progress.record(e.TaskInterrupted(task_id=task_id, attempt=attempt, node=task.node, clean=command.clean))
    task = progress.state.task(task_id)
    if progress.state.status != "open":
        progress.end(e.TaskCancelled(task_id=task_id, attempt=attempt))
    elif task.at_most_once:
        _give_up(progress, task_id, attempt, "its node stopped under it, and it is attempted at most once")
    elif task.crashes >= MAX_CRASHES:
        _give_up(progress, task_id, attempt, f"its node died under it {task.crashes} times; it is not given another")
    else:
        progress.schedule(task_id, attempt + 1)


def _give_up(progress: Progress, task_id: str, attempt: int, why: str) -> None:
    error = Json.of({"type": "Interrupted", "message": why})
    progress.end(e.TaskFailed(task_id=task_id, attempt=attempt, error=error))


def _receive(progress: Progress, command: c.ReceiveEvent) -> None:
    if progress.state.status != "new" and command.event_id not in progress.state.seen:
        progress.receive(Occurrence(command.event, command.payload, command.event_id, command.key))


def _fire(progress: Progress, command: c.FireTimer) -> None:
    state = progress.state
    if state.status != "open":
        return
    if command.kind == "deadline":
        progress.stop("timed_out", "its deadline passed")
    elif state.paused:
        return
    elif command.kind == "wait":
        if command.trigger in state.live_waits:
            progress.expire(command.trigger)
    else:
        _fire_for_task(progress, command, state.task(command.task_id))


def _fire_for_task(progress: Progress, command: c.FireTimer, task: TaskState) -> None:
    task_id = command.task_id
    match command.kind, task.status:
        case "retry", "retrying":
            progress.schedule(task_id, task.attempt + 1)
        case "delay", "delayed":
            if progress.state.definition.tasks[task_id].is_sleep:
                progress.end(e.TaskCompleted(task_id=task_id, attempt=0))
            else:
                progress.schedule(task_id, 1)
        case "start", "scheduled":
            limit = progress.state.definition.tasks[task_id].schedule_to_start
            if limit is not None:
                timed_out = e.TaskTimedOut(
                    task_id=task_id, attempt=task.attempt, timeout=limit, limit="schedule_to_start",
                    retry_at=_again(progress, command),
                )  # fmt: skip
                _end_or_retry(progress, timed_out)

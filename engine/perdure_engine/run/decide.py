"""What a command makes of a run: events, or none where there is nothing to do."""

from datetime import datetime, timedelta
from typing import assert_never

from perdure_engine.definitions.definition import EventTrigger
from perdure_engine.definitions.names import ANY_COMPLETION
from perdure_engine.run import commands as c
from perdure_engine.run import events as e
from perdure_engine.run.matching import matching_triggers
from perdure_engine.run.progress import Progress
from perdure_engine.run.state import Occurrence, RunState
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
    progress = Progress(state, command.at)
    match command:
        case c.BeginAttempt():
            _begin(progress, command)
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


def _begin(progress: Progress, command: c.BeginAttempt) -> None:
    task = progress.state.task(command.task_id)
    if task.status == "scheduled" and progress.state.status == "open":
        progress.record(e.TaskStarted(task_id=command.task_id, attempt=task.attempt, node=command.node))


def _is_under_way(progress: Progress, task_id: str, attempt: int) -> bool:
    task = progress.state.task(task_id)
    return task.status == "started" and task.attempt == attempt


def _complete(progress: Progress, command: c.CompleteAttempt) -> None:
    if _is_under_way(progress, command.task_id, command.attempt):
        progress.end(e.TaskCompleted(task_id=command.task_id, attempt=command.attempt, output=command.output))


def _fail(progress: Progress, command: c.FailAttempt | c.TimeOutAttempt) -> None:
    if not _is_under_way(progress, command.task_id, command.attempt):
        return
    again = progress.state.status == "open" and progress.state.task(command.task_id).failures + 1 < command.max_attempts
    retry_at = command.retry_at if again else None
    task_id, attempt = command.task_id, command.attempt
    event: e.TaskFailed | e.TaskTimedOut = (
        e.TaskFailed(task_id=task_id, attempt=attempt, retry_at=retry_at, error=command.error)
        if isinstance(command, c.FailAttempt)
        else e.TaskTimedOut(task_id=task_id, attempt=attempt, timeout=command.timeout, retry_at=retry_at)
    )
    if retry_at is None:
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
    elif task.crashes >= MAX_CRASHES:
        error = {
            "type": "Interrupted",
            "message": f"its node died under it {task.crashes} times; it is not given another",
        }
        progress.end(e.TaskFailed(task_id=task_id, attempt=attempt, error=Json.of(error)))
    else:
        progress.record(e.TaskScheduled(task_id=task_id, attempt=attempt + 1))


def _receive(progress: Progress, command: c.ReceiveEvent) -> None:
    if progress.state.status != "new" and command.event_id not in progress.state.seen:
        progress.receive(Occurrence(command.event, command.payload, command.event_id, command.key))


def _fire(progress: Progress, command: c.FireTimer) -> None:
    state = progress.state
    match command.kind:
        case "retry":
            task = state.task(command.task_id)
            if task.status == "retrying" and state.status == "open":
                progress.record(e.TaskScheduled(task_id=command.task_id, attempt=task.attempt + 1))
        case "wait":
            if command.trigger in state.live_waits and state.status == "open":
                progress.expire(command.trigger)
        case "deadline":
            if state.status == "open":
                progress.stop("timed_out", "its deadline passed")

"""Given what happened, when something is asked of the run, then this happens and nothing else.

    given(definition, run_started(definition), scheduled("a")).when(begin("a")).then(started("a"))

Events are written as participles, commands as imperatives. Every step also shows that the decision is repeatable and
that folding its events gives the state it was decided with.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Self, cast
from uuid import UUID

from perdure_engine.definitions.compile import compile_definition
from perdure_engine.definitions.definition import Definition
from perdure_engine.run import RunState, advance, decide, evolve, new_run
from perdure_engine.run import commands as c
from perdure_engine.run import events as e
from perdure_eventstore.door import Json

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = AT + timedelta(seconds=10)
RUN = UUID("019a0000-0000-7000-8000-000000000001")
NODE = UUID("019a0000-0000-7000-8000-00000000000a")
GO = UUID("019a0000-0000-7000-8000-0000000000e0")
"""The id of the event that starts a run."""
MORE = UUID("019a0000-0000-7000-8000-0000000000e1")
"""The id of a later event."""
ERROR = Json.of({"type": "ValueError", "message": "no"})
STOPPED = "somebody said so"


def task(task_id: str, *triggers: Any, **more: Any) -> dict[str, Any]:
    """A task as written; ``triggers`` may be left out where there is ``depends_on``."""
    written: dict[str, Any] = {"task_id": task_id, "type": "noop", **more}
    if triggers or "depends_on" not in more:
        written["triggers"] = list(triggers)
    return written


def define(*tasks: dict[str, Any], **more: Any) -> Definition:
    """A definition of these tasks."""
    return compile_definition({"workflow_id": "w", "tasks": list(tasks), **more})


# What happened


def run_started(definition: Definition, event: str | None = "go", payload: Any = None, **more: Any) -> e.RunStarted:
    """The start by ``event``: it holds every trigger of its name, and the run waits for all but other entries."""
    held = tuple(trigger.index for trigger in definition.events if trigger.name == event)
    fields: dict[str, Any] = {
        "workflow_id": definition.workflow_id,
        "digest": definition.digest,
        "event": event,
        "event_id": GO if event else None,
        "latched": held,
        "waits": tuple(
            e.WaitArmed(trigger.index, trigger.name, AT + timedelta(seconds=trigger.within) if trigger.within else None)
            for trigger in definition.events
            if trigger.index not in held and not trigger.entry and trigger.name != "task_completed"
        ),
        "input": Json.of({} if payload is None else payload),
    }
    return e.RunStarted(**{**fields, **more})


def scheduled(task_id: str, inputs: Any = None) -> e.TaskScheduled:
    return e.TaskScheduled(task_id=task_id, attempt=1, inputs=Json.of({} if inputs is None else inputs))


def scheduled_again(task_id: str, attempt: int) -> e.TaskScheduled:
    return e.TaskScheduled(task_id=task_id, attempt=attempt)


def started(task_id: str, attempt: int = 1) -> e.TaskStarted:
    return e.TaskStarted(task_id=task_id, attempt=attempt, node=NODE)


def completed(task_id: str, output: Any = None, attempt: int = 1) -> e.TaskCompleted:
    return e.TaskCompleted(task_id=task_id, attempt=attempt, output=Json.of(output))


def failed(
    task_id: str, attempt: int = 1, *, retry_at: datetime | None = None, error: Json = ERROR
) -> e.TaskFailed:  # fmt: skip
    return e.TaskFailed(task_id=task_id, attempt=attempt, retry_at=retry_at, error=error)


def unscheduled(task_id: str, kind: str, message: str) -> e.TaskFailed:
    """A task that failed before its first attempt."""
    return failed(task_id, 0, error=Json.of({"type": kind, "message": message}))


def timed_out(task_id: str, attempt: int = 1, *, retry_at: datetime | None = None) -> e.TaskTimedOut:
    return e.TaskTimedOut(task_id=task_id, attempt=attempt, timeout=5.0, retry_at=retry_at)


def interrupted(task_id: str, attempt: int = 1, *, clean: bool = False) -> e.TaskInterrupted:
    return e.TaskInterrupted(task_id=task_id, attempt=attempt, node=NODE, clean=clean)


def skipped(task_id: str, reason: str) -> e.TaskSkipped:
    return e.TaskSkipped(task_id=task_id, reason=reason)


def cancelled(task_id: str, attempt: int = 1) -> e.TaskCancelled:
    return e.TaskCancelled(task_id=task_id, attempt=attempt)


def latched(event: str, *triggers: int, payload: Any = None, id_: UUID | None = MORE) -> e.EventLatched:
    return e.EventLatched(
        event=event, event_id=id_, triggers=triggers, payload=Json.of({} if payload is None else payload)
    )  # fmt: skip


def ignored(event: str, reason: str, id_: UUID = MORE) -> e.EventIgnored:
    return e.EventIgnored(event=event, event_id=id_, reason=reason)


def expired(event: str, trigger: int) -> e.WaitExpired:
    return e.WaitExpired(trigger=trigger, event=event)


def stopping(outcome: e.Outcome = "cancelled", reason: str = STOPPED) -> e.RunStopping:
    return e.RunStopping(outcome=outcome, reason=reason)


def run_completed(output: Json | None = None) -> e.RunCompleted:
    return e.RunCompleted(output=output)


def run_failed(*tasks: str) -> e.RunFailed:
    return e.RunFailed(tasks=tasks)


def run_cancelled() -> e.RunCancelled:
    return e.RunCancelled(reason=STOPPED)


def ran(task_id: str, output: Any = None, inputs: Any = None) -> list[e.RunEvent]:
    """A task that completed at its first attempt."""
    return [scheduled(task_id, inputs), started(task_id), completed(task_id, output)]


# What is asked


def start(event: str | None = "go", payload: Any = None, **more: Any) -> c.StartRun:
    input_ = Json.of({} if payload is None else payload)
    return c.StartRun(at=AT, input=input_, event=event, event_id=GO if event else None, **more)


def receive(event: str, payload: Any = None, id_: UUID = MORE) -> c.ReceiveEvent:
    return c.ReceiveEvent(at=AT, event=event, event_id=id_, payload=Json.of({} if payload is None else payload))


def begin(task_id: str) -> c.BeginAttempt:
    return c.BeginAttempt(task_id=task_id, node=NODE)


def complete(task_id: str, output: Any = None, attempt: int = 1) -> c.CompleteAttempt:
    return c.CompleteAttempt(at=AT, task_id=task_id, attempt=attempt, output=Json.of(output))


def fail(task_id: str, attempt: int = 1, *, max_attempts: int = 1) -> c.FailAttempt:
    """A handler raised; the next attempt would be due LATER."""
    return c.FailAttempt(
        at=AT, task_id=task_id, attempt=attempt, error=ERROR, max_attempts=max_attempts, retry_at=LATER
    )  # fmt: skip


def time_out(task_id: str, attempt: int = 1, *, max_attempts: int = 1) -> c.TimeOutAttempt:
    return c.TimeOutAttempt(
        at=AT, task_id=task_id, attempt=attempt, timeout=5.0, max_attempts=max_attempts, retry_at=LATER
    )  # fmt: skip


def interrupt(task_id: str, attempt: int = 1, *, clean: bool = False) -> c.InterruptAttempt:
    return c.InterruptAttempt(at=AT, task_id=task_id, attempt=attempt, clean=clean)


def cancel(task_id: str, attempt: int = 1) -> c.CancelAttempt:
    return c.CancelAttempt(at=AT, task_id=task_id, attempt=attempt)


def retry_due(task_id: str) -> c.FireTimer:
    return c.FireTimer(at=LATER, kind="retry", task_id=task_id)


def wait_due(trigger: int) -> c.FireTimer:
    return c.FireTimer(at=LATER, kind="wait", trigger=trigger)


def deadline_due() -> c.FireTimer:
    return c.FireTimer(at=LATER, kind="deadline")


def stop(outcome: e.Outcome = "cancelled") -> c.StopRun:
    return c.StopRun(at=AT, outcome=outcome, reason=STOPPED)


# The three words


class Given:
    """A run to which something has happened."""

    def __init__(self, state: RunState) -> None:
        self.state = state

    def when(self, command: c.RunCommand) -> "When":
        """Ask something of it."""
        events, state = advance(self.state, command)
        assert decide(self.state, command) == events, "asked again, it decides otherwise"
        assert fold(self.state, events) == state, "its events do not lead to the state it was decided with"
        return When(events, state)

    def status_of(self, task_id: str) -> str:
        """The status of a task."""
        return self.state.task(task_id).status


class When(Given):
    """What came of a command."""

    def __init__(self, events: list[e.RunEvent], state: RunState) -> None:
        super().__init__(state)
        self.events = events

    def then(self, *events: e.Event) -> Self:
        """Exactly these events happened, in this order."""
        assert self.events == list(events), "\n".join(["it made", *map(repr, self.events), "not", *map(repr, events)])
        return self

    def then_nothing(self) -> Self:
        """It made no difference."""
        return self.then()


def given(definition: Definition, *events: e.Event) -> Given:
    """A run of ``definition`` to which ``events`` have happened."""
    return Given(fold(new_run(definition, RUN), events))


def fold(state: RunState, events: Iterable[e.Event]) -> RunState:
    """``state`` after ``events``."""
    for event in events:
        # A list of several kinds of events is to a type checker a list of their common base.
        state = evolve(state, cast(e.RunEvent, event))
    return state

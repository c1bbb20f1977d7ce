"""Every timer meets its task in every state: it makes the transition it is for, once, or no difference."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure_engine.definitions.compile import compile_definition
from perdure_engine.definitions.definition import Definition
from perdure_engine.doctor.expected import Expected
from perdure_engine.run import RunState, advance, new_run
from perdure_engine.run import commands as c
from perdure_engine.run import events as e
from perdure_engine.run.state import TaskState
from perdure_engine.work import work_of
from perdure_eventstore.door import Json

from .given import (
    AT,
    LATER,
    RUN,
    begin,
    cancel,
    complete,
    deadline_due,
    fail,
    fold,
    interrupt,
    receive,
    retry_due,
    stop,
    time_out,
    wait_due,
)  # fmt: skip
from .test_core_properties import reloaded

OUTCOMES: tuple[e.Outcome, ...] = ("cancelled", "timed_out", "failed")
LIMITS: tuple[e.Limit, ...] = ("start_to_close", "heartbeat")


@st.composite
def timed(draw: st.DrawFn) -> dict[str, Any]:
    """A document whose tasks have every kind of timer."""
    tasks: list[dict[str, Any]] = [
        {"task_id": "nap", "delay": "10s", "triggers": draw(st.sampled_from([["go"], ["a.ended"]]))},
        {"task_id": "late", "type": "noop", "triggers": [{"event": "paid", "within": 30}]},
        {"task_id": "never", "type": "noop", "triggers": ["go"], "when": "false"},
    ]
    for number, task_id in enumerate("abc"):
        task: dict[str, Any] = {"task_id": task_id, "type": "noop", "timeout": 5, "heartbeat": 2}
        before = draw(st.sampled_from(["go", *(f"{other}.{end}" for other in "abc"[:number] for end in ENDS)]))
        task["triggers"] = [before]
        for field, value in (
            ("delay", "10s"), ("schedule_to_start", "5s"), ("on_failure", "continue"), ("inputs", {"x": "{{missing}}"}),
        ):  # fmt: skip
            if draw(st.integers(0, 3 if field == "inputs" else 1)) == 0:
                task[field] = value
        tasks.append(task)
    return {
        "workflow_id": "w", "tasks": draw(st.permutations(tasks)), "start": ["go"], "fail_fast": draw(st.booleans()),
        **draw(st.sampled_from([{}, {"deadline": "1m"}])),
    }  # fmt: skip


ENDS = ("completed", "failed", "ended")


def timers(state: RunState) -> list[c.RunCommand]:
    """Everything that the passing of time may say to a run, in time and late."""
    definition = state.definition
    found: list[c.RunCommand] = [deadline_due()] if definition.deadline else []
    found += [wait_due(trigger.index) for trigger in definition.events]
    for task_id in definition.tasks:
        found += [retry_due(task_id), c.FireTimer(at=LATER, kind="delay", task_id=task_id)]
        attempt = state.task(task_id).attempt
        for most in (1, 3):
            found.append(c.FireTimer(at=LATER, kind="start", task_id=task_id, max_attempts=most, retry_at=LATER))
            found += [
                c.TimeOutAttempt(
                    at=LATER,
                    task_id=task_id,
                    attempt=number,
                    timeout=2.0,
                    limit=limit,
                    max_attempts=most,
                    retry_at=LATER,
                )
                for limit in LIMITS
                for number in (attempt - 1, attempt, attempt + 1)
            ]
    return found


def meant(state: RunState, command: c.RunCommand) -> type[e.Event] | None:
    """The rules: the transition that a timer is for, if the run and the task are where it can be made."""
    is_open, goes_on = state.status == "open", state.status == "open" and not state.paused
    match command:
        case c.TimeOutAttempt():
            # What is under way goes on though the run is paused or stops, and so does its time.
            task = state.task(command.task_id)
            return e.TaskTimedOut if (task.status, task.attempt) == ("started", command.attempt) else None
        case c.FireTimer(kind="deadline"):
            return e.RunStopping if is_open else None
        case c.FireTimer(kind="wait"):
            return e.WaitExpired if goes_on and command.trigger in state.live_waits else None
        case c.FireTimer():
            return _for_task(state.definition, command, state.task(command.task_id)) if goes_on else None
    raise AssertionError(command)


def _for_task(definition: Definition, timer: c.FireTimer, task: TaskState) -> type[e.Event] | None:
    spec = definition.tasks[timer.task_id]
    match timer.kind, task.status:
        case "retry", "retrying":
            return e.TaskScheduled
        case "delay", "delayed":
            return e.TaskCompleted if spec.is_sleep else e.TaskScheduled
        case "start", "scheduled" if spec.schedule_to_start is not None:
            return e.TaskTimedOut
    return None


class Life:
    """A run, the rows that its appends leave, and what its timers have met."""

    def __init__(self, definition: Definition, met: Counter[tuple[str, str, str]]) -> None:
        self.state, self.met = new_run(definition, RUN), met
        self.written, self.read, self.length = Expected(RUN), Expected(RUN), 0

    def give(self, command: c.RunCommand) -> None:
        events, state = advance(self.state, command)
        assert fold(self.state, map(reloaded, events)) == state
        if events:
            work = work_of(RUN, events, paused=self.state.paused, definition=state.definition)
            self.written.put(work, self.length + 1)
        for event in events:
            self.length += 1
            self.read.take(event, self.length)
        self.state = state

    def possible(self) -> list[c.RunCommand]:
        """What may happen beside the passing of time."""
        found: list[c.RunCommand] = [receive("paid"), c.PauseRun(at=AT), c.ResumeRun(at=AT), stop("cancelled")]
        for task_id in self.state.definition.tasks:
            task = self.state.task(task_id)
            if task.status == "scheduled":
                found += [begin(task_id)] * 4
            elif task.status == "started":
                ends: list[c.RunCommand] = [complete(task_id, 1, task.attempt), interrupt(task_id, task.attempt)]
                found += [*ends, fail(task_id, task.attempt), *[fail(task_id, task.attempt, max_attempts=3)] * 3]
                found += [time_out(task_id, task.attempt), cancel(task_id, task.attempt)]
        return found

    def end_well(self) -> None:
        """Let whatever is left to do be done."""
        self.give(c.ResumeRun(at=AT))
        self.give(receive("paid"))
        while not self.state.is_ended:
            for task_id in self.state.definition.tasks:
                self.give(c.FireTimer(at=LATER, kind="delay", task_id=task_id))
                self.give(retry_due(task_id))
                self.give(begin(task_id))
                self.give(complete(task_id, 1, self.state.task(task_id).attempt))

    def meet(self) -> None:
        """Fire every timer at the run as it is, and as it would be paused, resumed and stopped."""
        self._check_rows()
        others: tuple[c.RunCommand, ...] = (c.PauseRun(at=AT), c.ResumeRun(at=AT), *map(stop, OUTCOMES))
        for state in (self.state, *(advance(self.state, other)[1] for other in others)):
            for timer in timers(state):
                self._fire(state, timer)

    def _fire(self, state: RunState, timer: c.RunCommand) -> None:
        events, after = advance(state, timer)
        first = meant(state, timer)
        assert (type(events[0]) if events else None) is first, (timer, state)
        assert fold(state, map(reloaded, events)) == after
        assert advance(after, timer) == ([], after), "a timer fires once"
        task_id = getattr(timer, "task_id", "")
        about = [event for event in events if task_id and getattr(event, "task_id", None) == task_id]
        assert len(about) == (1 if task_id and first else 0), "one transition"
        assert sum(isinstance(event, e.RUN_ENDED) for event in events) <= 1
        kind = timer.kind if isinstance(timer, c.FireTimer) else "limit"
        situation = "paused" if state.paused and state.status == "open" else state.status
        self.met[kind, state.task(task_id).status if task_id else "", situation] += 1

    def _check_rows(self) -> None:
        """A timer has its row as long as it would make a difference, but for a pause, and no longer."""
        if self.state.status != "open":
            return
        resumed = advance(self.state, c.ResumeRun(at=AT))[1]
        wanted = {
            name
            for timer in timers(resumed)
            if isinstance(timer, c.FireTimer) and meant(resumed, timer) and (name := self._row(timer)) is not None
        }
        there = self.written.rows["timers"]
        assert there == self.read.rows["timers"], "what nodes write, and what the doctor reads from the log"
        assert there.keys() == wanted
        assert all(row["held"] == (self.state.paused and name != "deadline") for name, row in there.items())

    def _row(self, timer: c.FireTimer) -> str | None:
        if timer.kind == "wait":
            has_end = self.state.definition.events[timer.trigger].within is not None
            return f"wait:{timer.trigger}" if has_end else None
        return f"{timer.kind}:{timer.task_id}" if timer.task_id else timer.kind


def test_a_timer_meets_every_state_of_its_task_and_of_its_run() -> None:
    met = Counter[tuple[str, str, str]]()

    @settings(
        max_examples=150, deadline=None, derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(timed(), st.data())
    def lives(document: dict[str, Any], data: st.DataObject) -> None:
        life = Life(compile_definition(document), met)
        life.give(c.StartRun(at=AT, input=Json.of({}), event="go", event_id=RUN))
        life.meet()
        for _ in range(data.draw(st.integers(1, 20))):
            effective = [
                each
                for each in timers(life.state)
                if isinstance(each, c.FireTimer) and meant(life.state, each) and each.at == LATER
            ]
            chosen = effective if effective and data.draw(st.integers(0, 3)) == 0 else life.possible()
            life.give(data.draw(st.sampled_from(chosen)))
            life.meet()
            if life.state.is_ended:
                return
        life.end_well()
        life.meet()

    lives()
    assert [each for each in _every_meeting() if each not in met] == []


def _every_meeting() -> Iterator[tuple[str, str, str]]:
    """Kind of timer, status of its task, situation of its run. (A task is ``interrupted`` within one append alone.)"""
    for kind in ("retry", "delay", "start", "limit"):
        for status in ("waiting", "delayed", "scheduled", "started", "retrying", "completed", "failed", "skipped"):
            yield kind, status, "open"
            yield kind, status, "paused"
            # A run that stops cancels at once what is neither under way nor over.
            if status not in ("delayed", "scheduled", "retrying"):
                yield kind, status, "stopping"
        for situation in ("stopping", "cancelled", "failed", "timed_out"):
            yield kind, "cancelled", situation
    for kind in ("deadline", "wait"):
        for situation in ("open", "paused", "stopping", "cancelled", "failed", "timed_out", "completed"):
            yield kind, "", situation

"""Delays, limits of time and delivery: what the core decides of them."""

from datetime import timedelta
from typing import Any

import pytest

from perdure_engine.run import commands as c
from perdure_engine.run import events as e
from perdure_engine.work import work_of
from perdure_eventstore.door import Json

from .given import (
    AT,
    ERROR,
    LATER,
    RUN,
    Given,
    begin,
    complete,
    completed,
    define,
    fail,
    given,
    interrupt,
    interrupted,
    run_completed,
    run_failed,
    run_started,
    scheduled,
    start,
    started,
    stop,
    task,
    time_out,
    unscheduled,
)

NOTHING = Json.of({})


def delay_due(task_id: str) -> c.FireTimer:
    return c.FireTimer(at=LATER, kind="delay", task_id=task_id)


def start_due(task_id: str, *, max_attempts: int = 1) -> c.FireTimer:
    return c.FireTimer(at=LATER, kind="start", task_id=task_id, max_attempts=max_attempts, retry_at=LATER)


def begin_once(task_id: str) -> c.BeginAttempt:
    return c.BeginAttempt(task_id=task_id, node=RUN, at_most_once=True)


def begun(definition: Any, task_id: str = "a") -> Given:
    return given(definition, run_started(definition), scheduled(task_id)).when(begin_once(task_id))


# Delays


def test_a_delay_puts_a_timer_between_ready_and_scheduled() -> None:
    definition = define(task("a", "go", delay="10s", inputs={"n": 1}))
    delayed = e.TaskDelayed(task_id="a", until=LATER, inputs=Json.of({"n": 1}))
    run = given(definition).when(start()).then(run_started(definition), delayed)
    run.when(begin("a")).then_nothing()
    run = run.when(delay_due("a")).then(e.TaskScheduled(task_id="a", attempt=1))
    assert run.state.task("a").inputs == Json.of({"n": 1})
    run.when(delay_due("a")).then_nothing()
    run.when(begin("a")).then(started("a"))


def test_a_task_with_a_delay_and_no_type_is_a_sleep() -> None:
    definition = define({"task_id": "a", "triggers": ["go"], "delay": "10s"}, task("b", "a.completed"))
    run = given(definition).when(start()).then(run_started(definition), e.TaskDelayed(task_id="a", until=LATER))
    run.when(delay_due("a")).then(e.TaskCompleted(task_id="a", attempt=0), scheduled("b"))


@pytest.mark.parametrize(("given_delay", "seconds"), [(2.5, 2.5), ("1m", 60), ("{{wait}}", 7), ("{{text}}", 7200)])
def test_a_delay_is_a_duration_or_a_template_of_one(given_delay: object, seconds: float) -> None:
    definition = define(task("a", "go", delay=given_delay))
    run = given(definition).when(start(payload={"wait": 7, "text": "2h"}))
    delayed = run.events[1]
    assert isinstance(delayed, e.TaskDelayed)
    assert delayed.until == AT + timedelta(seconds=seconds)


def test_a_delay_of_nothing_is_none() -> None:
    definition = define(task("a", "go", delay="{{wait}}"))
    assert given(definition).when(start(payload={"wait": 0})).events[1] == scheduled("a")


def test_a_delay_that_is_no_duration_fails_its_task() -> None:
    definition = define(task("a", "go", delay="{{wait}}"))
    run = given(definition).when(start(payload={"wait": "soon"}))
    why = '`delay`: a duration is a number of seconds or text like "90s", "15m", "2h", "1d", not \'soon\''
    assert run.events[1:] == [unscheduled("a", "DelayError", why), run_failed("a")]


def test_a_cancel_ends_a_delay() -> None:
    definition = define(task("a", "go", delay="10s"))
    run = given(definition).when(start()).when(stop())
    assert run.events[1] == e.TaskCancelled(task_id="a", attempt=0)
    run.when(delay_due("a")).then_nothing()


def test_a_delays_timer_is_set_and_cleared_with_the_events() -> None:
    definition = define(task("a", "go", delay="10s"))
    delayed = e.TaskDelayed(task_id="a", until=LATER)
    row = {"run": RUN, "timer": "delay:a", "shard": 1, "due": LATER}
    assert work_of(RUN, [delayed], definition=definition) == {"timers": [row]}
    gone = {"cleared": [{"run": RUN, "timer": "delay:a"}]}
    assert work_of(RUN, [scheduled("a")], definition=definition) == gone
    assert work_of(RUN, [e.TaskCompleted(task_id="a", attempt=0)], definition=definition) == gone


# Schedule to start


def test_an_attempt_that_does_not_start_in_time_times_out_and_counts_as_an_attempt() -> None:
    definition = define(task("a", "go", schedule_to_start="10s"))
    late = e.TaskScheduled(task_id="a", attempt=1, start_by=LATER, inputs=NOTHING)
    run = given(definition).when(start()).then(run_started(definition), late)
    again = e.TaskTimedOut(task_id="a", attempt=1, timeout=10, limit="schedule_to_start", retry_at=LATER)
    retried = run.when(start_due("a", max_attempts=2)).then(again)
    assert retried.state.task("a").failures == 1
    last = e.TaskTimedOut(task_id="a", attempt=1, timeout=10, limit="schedule_to_start")
    ended = run.when(start_due("a")).then(last, run_failed("a"))
    assert ended.state.task("a").error == Json.of({"type": "TimedOut", "message": "it did not start within 10 s"})


def test_one_that_started_in_time_is_left_alone() -> None:
    definition = define(task("a", "go", schedule_to_start="10s"))
    run = given(definition).when(start()).when(begin("a"))
    run.when(start_due("a")).then_nothing()
    assert work_of(RUN, run.events, definition=definition) == {"cleared": [{"run": RUN, "timer": "start:a"}]}


def test_every_attempt_has_its_own_time_to_start() -> None:
    definition = define(task("a", "go", schedule_to_start="10s"))
    run = given(definition, run_started(definition), scheduled("a"), started("a"))
    again = e.TaskScheduled(task_id="a", attempt=2, start_by=LATER)
    run.when(interrupt("a")).then(interrupted("a"), again)


# Delivery


def test_an_attempt_made_at_most_once_is_not_tried_again_after_a_failure_or_a_time_out() -> None:
    definition = define(task("a", "go"))
    run = given(definition, run_started(definition), scheduled("a")).when(begin_once("a"))
    run.then(e.TaskStarted(task_id="a", attempt=1, node=RUN, at_most_once=True))
    run.when(fail("a", max_attempts=3)).then(e.TaskFailed(task_id="a", attempt=1, error=ERROR), run_failed("a"))
    run.when(time_out("a", max_attempts=3)).then(
        e.TaskTimedOut(task_id="a", attempt=1, timeout=5.0), run_failed("a")
    )  # fmt: skip


@pytest.mark.parametrize("clean", [False, True])
def test_an_attempt_made_at_most_once_is_not_tried_again_after_its_node_stopped(clean: bool) -> None:
    run = begun(define(task("a", "go")))
    events = run.when(interrupt("a", clean=clean)).events
    assert [type(event) for event in events] == [e.TaskInterrupted, e.TaskFailed, e.RunFailed]
    assert isinstance(events[1], e.TaskFailed) and events[1].error is not None
    assert "attempted at most once" in events[1].error.value["message"]


def test_an_attempt_made_at_most_once_completes_like_any_other() -> None:
    begun(define(task("a", "go"))).when(complete("a")).then(completed("a"), run_completed())

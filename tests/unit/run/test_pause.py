"""Rule 24: a paused run starts nothing; events latch, timers wait, what is under way and the deadline go on."""

from datetime import timedelta

import pytest

from perdure_engine.run import commands as c
from perdure_engine.run import events as e
from perdure_engine.work import work_of

from .given import (
    AT,
    LATER,
    RUN,
    begin,
    complete,
    completed,
    deadline_due,
    define,
    fail,
    failed,
    given,
    latched,
    receive,
    retry_due,
    run_completed,
    run_started,
    scheduled,
    scheduled_again,
    started,
    stop,
    task,
    wait_due,
)

TWO = define(task("a", "go"), task("b", "a.completed"))
PAUSED = e.RunPaused(reason="a flood")
RESUMED = e.RunResumed(reason="dry")
PAUSE = c.PauseRun(at=AT, reason="a flood")
RESUME = c.ResumeRun(at=LATER, reason="dry")


def test_rule_24_a_paused_run_starts_nothing() -> None:
    run = given(TWO, run_started(TWO), scheduled("a")).when(PAUSE).then(PAUSED)
    run.when(begin("a")).then_nothing()
    run.when(RESUME).then(RESUMED).when(begin("a")).then(started("a"))


def test_rule_24_a_task_under_way_goes_on_and_what_it_makes_ready_waits() -> None:
    run = given(TWO, run_started(TWO), scheduled("a"), started("a"), PAUSED)
    run = run.when(complete("a")).then(completed("a"), scheduled("b"))
    run.when(begin("b")).then_nothing()


def test_rule_24_events_latch_while_the_run_is_paused() -> None:
    definition = define(task("a", "go"), task("b", "paid", "a.completed"))
    run = given(definition, run_started(definition), scheduled("a"), PAUSED)
    run.when(receive("paid")).then(latched("paid", 1), scheduled("b"))


@pytest.mark.parametrize(
    ("definition", "events", "timer"),
    [
        (TWO, [scheduled("a"), started("a"), failed("a", retry_at=LATER)], retry_due("a")),
        (
            define(task("a", {"event": "paid", "within": "5s"}), task("b", "go"), start=["go"]),
            [scheduled("b")],
            wait_due(0),
        ),
    ],
)
def test_rule_24_timers_wait_until_the_run_is_resumed(definition, events, timer) -> None:  # type: ignore[no-untyped-def]
    run = given(definition, run_started(definition), *events, PAUSED)
    run.when(timer).then_nothing()
    assert run.when(RESUME).when(timer).events


def test_rule_24_the_deadline_goes_on() -> None:
    definition = define(task("a", "go"), deadline="5s")
    run = given(definition, run_started(definition, deadline=LATER), scheduled("a"), PAUSED)
    assert e.RunTimedOut() in run.when(deadline_due()).events


def test_rule_24_a_paused_run_can_be_cancelled_and_ends_where_nothing_is_left_to_start() -> None:
    run = given(TWO, run_started(TWO), scheduled("a"), PAUSED)
    assert isinstance(run.when(stop()).events[-1], e.RunCancelled)
    only = define(task("a", "go"))
    run = given(only, run_started(only), scheduled("a"), started("a"), PAUSED)
    run.when(complete("a")).then(completed("a"), run_completed())


def test_pausing_twice_and_resuming_what_runs_makes_no_difference() -> None:
    run = given(TWO, run_started(TWO), scheduled("a"))
    run.when(RESUME).then_nothing()
    run.when(PAUSE).when(PAUSE).then_nothing()
    ended = given(TWO, run_started(TWO), scheduled("a"), e.RunStopping(outcome="cancelled", reason="so"))
    ended.when(PAUSE).then_nothing()


def test_a_failure_while_the_run_is_paused_sets_a_timer_that_is_held() -> None:
    run = given(TWO, run_started(TWO), scheduled("a"), started("a"), PAUSED)
    run = run.when(fail("a", max_attempts=3)).then(failed("a", retry_at=LATER))
    row = {"run": RUN, "timer": "retry:a", "shard": 1, "due": LATER, "held": True}
    assert work_of(RUN, run.events, paused=True)["timers"] == [row]
    assert "held" not in work_of(RUN, run.events)["timers"][0]


def test_pausing_and_resuming_hold_the_timers_that_are_there() -> None:
    assert work_of(RUN, [PAUSED]) == {"paused": [{"run": RUN, "paused": True}]}
    assert work_of(RUN, [RESUMED]) == {"paused": [{"run": RUN, "paused": False}]}
    due = AT + timedelta(seconds=1)
    both = work_of(RUN, [PAUSED, failed("a", retry_at=due)])
    assert both["timers"][0]["held"]


def test_a_crash_while_the_run_is_paused_is_recorded_and_begins_again_later() -> None:
    run = given(TWO, run_started(TWO), scheduled("a"), started("a"), PAUSED)
    crashed = run.when(c.InterruptAttempt(at=AT, task_id="a", attempt=1))
    assert crashed.events[-1] == scheduled_again("a", 2)
    crashed.when(begin("a")).then_nothing()

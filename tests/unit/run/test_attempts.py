"""Rule 15: attempts, retries, time-outs and interruptions; and what comes too late."""

from typing import Any

import pytest

from perdure_engine.run import commands as c
from perdure_engine.run import events as e
from perdure_eventstore.door import Json

from .given import (
    LATER,
    NODE,
    Given,
    begin,
    cancel,
    cancelled,
    complete,
    completed,
    deadline_due,
    define,
    fail,
    failed,
    given,
    interrupt,
    interrupted,
    ran,
    retry_due,
    run_completed,
    run_failed,
    run_started,
    scheduled,
    scheduled_again,
    started,
    stop,
    stopping,
    task,
    time_out,
    timed_out,
    wait_due,
)

ONE = define(task("a", "go"))
UNDER_WAY = [run_started(ONE), scheduled("a", {}), started("a")]


def attempt(number: int, *ends: e.Event) -> list[e.Event]:
    """A run of one task under way in attempt ``number``, after these ends of the attempts before."""
    events: list[e.Event] = list(UNDER_WAY)
    for at, end in enumerate(ends, 2):
        events += [end, scheduled_again("a", at), started("a", at)]
    assert len(ends) == number - 1
    return events


def test_no_attempt_begins_twice() -> None:
    given(ONE, *UNDER_WAY).when(begin("a")).then_nothing()


def test_an_attempt_begins_under_its_number() -> None:
    history = [*UNDER_WAY, failed("a", retry_at=LATER), scheduled_again("a", 2)]
    begun = given(ONE, *history).when(begin("a")).then(started("a", 2))
    assert begun.state.task("a").node == NODE


def test_rule_15_a_failure_within_the_budget_waits_for_its_retry() -> None:
    waiting = given(ONE, *UNDER_WAY).when(fail("a", max_attempts=3)).then(failed("a", retry_at=LATER))
    assert waiting.status_of("a") == "retrying"
    waiting.when(retry_due("a")).then(scheduled_again("a", 2))


def test_rule_15_the_last_attempt_of_the_budget_fails_the_task() -> None:
    history = attempt(3, failed("a", retry_at=LATER), failed("a", 2, retry_at=LATER))
    given(ONE, *history).when(fail("a", 3, max_attempts=3)).then(failed("a", 3), run_failed("a"))


def test_rule_15_an_error_that_never_retries_fails_the_task_at_once() -> None:
    never = c.FailAttempt(at=LATER, task_id="a", attempt=1, error=Json(b"1"), max_attempts=3, retry_at=None)
    given(ONE, *UNDER_WAY).when(never).then(failed("a", error=Json(b"1")), run_failed("a"))


def test_rule_15_time_outs_count_as_attempts() -> None:
    first = given(ONE, *UNDER_WAY).when(time_out("a", max_attempts=2)).then(timed_out("a", retry_at=LATER))
    assert first.status_of("a") == "retrying"
    history = attempt(2, timed_out("a", retry_at=LATER))
    given(ONE, *history).when(time_out("a", 2, max_attempts=2)).then(timed_out("a", 2), run_failed("a"))
    given(ONE, *history).when(fail("a", 2, max_attempts=2)).then(failed("a", 2), run_failed("a"))


def test_a_time_out_is_a_failure_with_an_error_that_says_so() -> None:
    definition = define(task("a", "go"), task("b", "a.failed", inputs={"of": "{{event.payload}}"}))
    history = [run_started(definition), scheduled("a"), started("a")]
    error = {"type": "TimedOut", "message": "it took longer than 5 s"}
    late = given(definition, *history).when(time_out("a")).then(timed_out("a"), scheduled("b", {"of": error}))
    assert late.state.task("a").error == Json.of(error)


def test_an_attempt_that_succeeds_after_others_failed_leaves_no_error() -> None:
    ended = given(ONE, *attempt(2, failed("a", retry_at=LATER))).when(complete("a", 1, 2))
    assert ended.then(completed("a", 1, 2), run_completed()).state.task("a").error is None


def test_the_inputs_of_the_first_attempt_are_those_of_all() -> None:
    definition = define(task("a", "go", inputs={"n": "{{n}}"}))
    history = [run_started(definition, payload={"n": 1}), scheduled("a", {"n": 1}), started("a")]
    again = given(definition, *history).when(interrupt("a")).then(interrupted("a"), scheduled_again("a", 2))
    assert again.state.task("a").inputs == Json.of({"n": 1})


@pytest.mark.parametrize("clean", [False, True])
def test_an_interrupted_attempt_is_followed_by_the_next_at_once(clean: bool) -> None:
    given(ONE, *UNDER_WAY).when(interrupt("a", clean=clean)).then(
        interrupted("a", clean=clean), scheduled_again("a", 2)
    )


@pytest.mark.parametrize("clean", [False, True])
def test_rule_15_interruptions_do_not_count_as_attempts(clean: bool) -> None:
    history = attempt(4, *(interrupted("a", number, clean=clean) for number in (1, 2, 3)))
    given(ONE, *history).when(fail("a", 4, max_attempts=2)).then(failed("a", 4, retry_at=LATER))


def test_rule_15_failures_do_not_count_as_interruptions() -> None:
    history = attempt(5, *(failed("a", number, retry_at=LATER) for number in (1, 2, 3, 4)))
    given(ONE, *history).when(interrupt("a", 5)).then(interrupted("a", 5), scheduled_again("a", 6))


def test_rule_15_the_fifth_crash_fails_the_task() -> None:
    crashes = [interrupted("a", number) for number in (1, 2, 3, 4)]
    fourth = given(ONE, *attempt(4, *crashes[:3])).when(interrupt("a", 4))
    fourth.then(interrupted("a", 4), scheduled_again("a", 5))
    error = {"type": "Interrupted", "message": "its node died under it 5 times; it is not given another"}
    given(ONE, *attempt(5, *crashes)).when(interrupt("a", 5)).then(
        interrupted("a", 5), failed("a", 5, error=Json.of(error)), run_failed("a")
    )


def test_rule_15_clean_stops_never_count() -> None:
    stops = [interrupted("a", number, clean=True) for number in range(1, 21)]
    given(ONE, *attempt(21, *stops)).when(interrupt("a", 21)).then(interrupted("a", 21), scheduled_again("a", 22))


def test_what_a_crash_fails_can_be_handled() -> None:
    definition = define(task("a", "go"), task("b", "a.failed"))
    history: list[e.Event] = [run_started(definition), *attempt(5, *(interrupted("a", n) for n in (1, 2, 3, 4)))[1:]]
    assert scheduled("b") in given(definition, *history).when(interrupt("a", 5)).events


# Too late, or again

WAITING = define(task("a", "go"), task("b", depends_on=["a"]), task("c", {"all": ["b.completed", "paid"]}))
TOO_LATE: dict[str, Any] = {
    "ended": [run_started(ONE), *ran("a"), run_completed()],
    "completed": [run_started(WAITING), *ran("a"), scheduled("b")],
    "retrying": [*UNDER_WAY, failed("a", retry_at=LATER)],
    "scheduled again": [*UNDER_WAY, failed("a", retry_at=LATER), scheduled_again("a", 2)],
    "next attempt": attempt(2, interrupted("a")),
}
OF_AN_ATTEMPT = [
    complete("a"),
    fail("a"),
    fail("a", max_attempts=3),
    time_out("a"),
    interrupt("a"),
    interrupt("a", clean=True),
    cancel("a"),
]


@pytest.mark.parametrize("command", OF_AN_ATTEMPT, ids=lambda command: type(command).__name__)
@pytest.mark.parametrize("history", TOO_LATE.values(), ids=list(TOO_LATE))
def test_what_is_said_of_an_attempt_that_is_over_makes_no_difference(
    history: list[e.Event], command: c.RunCommand
) -> None:
    definition = WAITING if history[0] == run_started(WAITING) else ONE
    given(definition, *history).when(command).then_nothing()


@pytest.mark.parametrize("command", [begin("b"), complete("b"), fail("b"), interrupt("b"), retry_due("b"), cancel("b")])
def test_nothing_can_be_said_of_a_task_that_waits(command: c.RunCommand) -> None:
    history = [run_started(WAITING), scheduled("a"), started("a")]
    given(WAITING, *history).when(command).then_nothing()


@pytest.mark.parametrize("history", [UNDER_WAY, UNDER_WAY[:2], attempt(2, failed("a", retry_at=LATER))])
def test_a_retrys_timer_that_comes_again_makes_no_difference(history: list[e.Event]) -> None:
    given(ONE, *history).when(retry_due("a")).then_nothing()


@pytest.mark.parametrize("command", [begin("a"), retry_due("a"), wait_due(0), deadline_due(), stop()])
def test_a_run_that_has_ended_changes_no_more(command: c.RunCommand) -> None:
    given(ONE, run_started(ONE), *ran("a"), run_completed()).when(command).then_nothing()


def stopping_run() -> Given:
    definition = define(task("a", "go"), task("b", "go"), deadline=9)
    history = [run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b")]
    return given(definition, *history, stopping())


@pytest.mark.parametrize("command", [deadline_due(), stop(), stop("timed_out"), retry_due("a"), begin("a")])
def test_a_run_that_is_stopping_is_not_stopped_again(command: c.RunCommand) -> None:
    stopping_run().when(command).then_nothing()


def test_a_cancelled_attempt_ends_once() -> None:
    stopping_run().when(cancel("a")).then(cancelled("a")).when(cancel("a")).then_nothing()

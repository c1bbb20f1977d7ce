"""Rules 11 and 12: which failures are handled, and what a run does after one that is not."""

import pytest

from perdure_engine.definitions.definition import Definition

from .given import (
    LATER,
    cancelled,
    complete,
    completed,
    define,
    fail,
    failed,
    given,
    latched,
    ran,
    receive,
    retry_due,
    run_completed,
    run_failed,
    run_started,
    scheduled,
    scheduled_again,
    skipped,
    started,
    stopping,
    task,
    unscheduled,
)

# Rule 11


def test_rule_11_a_failure_is_handled_if_a_task_triggered_by_it_completed() -> None:
    definition = define(task("a", "go"), task("b", "a.failed"))
    history = [run_started(definition), scheduled("a"), started("a"), failed("a"), scheduled("b"), started("b")]
    given(definition, *history).when(complete("b")).then(completed("b"), run_completed())


def test_rule_11_a_failure_whose_handler_fails_is_not_handled() -> None:
    definition = define(task("a", "go"), task("b", "a.failed"))
    history = [run_started(definition), scheduled("a"), started("a"), failed("a"), scheduled("b"), started("b")]
    given(definition, *history).when(fail("b")).then(failed("b"), run_failed("a", "b"))


def test_rule_11_a_failure_whose_handler_is_skipped_is_not_handled() -> None:
    definition = define(task("a", "go"), task("b", "a.failed", when="false"))
    history = [run_started(definition), scheduled("a"), started("a")]
    given(definition, *history).when(fail("a")).then(failed("a"), skipped("b", "`when` is false"), run_failed("a"))


def test_rule_11_the_handlers_own_failure_can_be_handled_and_the_first_is_still_not() -> None:
    definition = define(task("a", "go"), task("b", "a.failed"), task("c", "b.failed"))
    history = [
        *[run_started(definition), scheduled("a"), started("a"), failed("a"), scheduled("b"), started("b")],
        *[failed("b"), scheduled("c"), started("c")],
    ]
    given(definition, *history).when(complete("c")).then(completed("c"), run_failed("a"))


def test_rule_11_a_failure_that_is_let_pass_is_handled() -> None:
    definition = define(task("a", "go", on_failure="continue"), task("b", "a.done"))
    history = [run_started(definition), scheduled("a"), started("a"), failed("a"), scheduled("b"), started("b")]
    given(definition, *history).when(complete("b")).then(completed("b"), run_completed())


def test_rule_11_a_failure_that_is_let_pass_is_not_a_completion() -> None:
    definition = define(task("a", "go", on_failure="continue"), task("b", depends_on=["a"]))
    history = [run_started(definition), scheduled("a"), started("a")]
    given(definition, *history).when(fail("a")).then(
        failed("a"), skipped("b", "a failed, not completed"), run_completed()
    )


def test_rule_11_cleanup_on_ended_does_not_handle_a_failure() -> None:
    definition = define(task("a", "go"), task("b", "a.ended"))
    history = [run_started(definition), scheduled("a"), started("a"), failed("a"), scheduled("b"), started("b")]
    given(definition, *history).when(complete("b")).then(completed("b"), run_failed("a"))


def test_rule_11_one_handler_handles_every_failure_it_is_triggered_by() -> None:
    definition = define(task("a", "go"), task("b", "go"), task("c", "a.failed", "b.failed"))
    history = [
        *[run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b"), failed("a")],
        *[scheduled("c"), started("c"), failed("b")],
    ]
    given(definition, *history).when(complete("c")).then(completed("c"), run_completed())


def test_rule_11_a_handler_that_was_faster_than_the_second_failure_makes_no_difference() -> None:
    definition = define(task("a", "go"), task("b", "go"), task("c", "a.failed", "b.failed"))
    history = [
        *[run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b"), failed("a")],
        *ran("c"),
    ]
    given(definition, *history).when(fail("b")).then(failed("b"), run_completed())


def test_rule_11_a_failure_before_the_first_attempt_is_a_failure_like_any_other() -> None:
    definition = define(task("a", "go", inputs={"x": "{{nothing}}"}), task("b", "a.failed"))
    message = "/tasks/0/inputs/x: `nothing` has no value: `input` has no 'nothing'; it has nothing"
    history = [run_started(definition), unscheduled("a", "TemplateError", message), scheduled("b"), started("b")]
    given(definition, *history).when(complete("b")).then(completed("b"), run_completed())


# Rule 12


def test_rule_12_after_an_unhandled_failure_the_independent_tasks_go_on() -> None:
    definition = define(task("a", "go"), task("b", "go"), task("c", depends_on=["b"]), task("d", depends_on=["a"]))
    history = [run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b")]
    one = given(definition, *history).when(fail("a")).then(failed("a"), skipped("d", "a failed, not completed"))
    two = one.when(complete("b")).then(completed("b"), scheduled("c"))
    given(definition, *history, *one.events, *two.events, started("c")).when(complete("c")).then(
        completed("c"), run_failed("a")
    )


def test_rule_12_after_an_unhandled_failure_retries_go_on() -> None:
    definition = define(task("a", "go"), task("b", "go"))
    history = [run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b"), failed("a")]
    waiting = given(definition, *history).when(fail("b", max_attempts=2)).then(failed("b", retry_at=LATER))
    waiting.when(retry_due("b")).then(scheduled_again("b", 2))


def test_rule_12_after_an_unhandled_failure_waits_no_longer_hold_the_run() -> None:
    definition = define(task("a", "go"), task("b", "paid"), task("c", "b.done"), start=["go"])
    history = [run_started(definition), scheduled("a"), started("a")]
    reason = "the run fails: a failed"
    given(definition, *history).when(fail("a")).then(
        failed("a"), skipped("b", reason), skipped("c", reason), run_failed("a")
    )


def test_rule_12_an_event_in_time_still_goes_on_beside_an_unhandled_failure() -> None:
    definition = define(task("a", "go"), task("b", "paid"), task("c", "go"), start=["go"])
    history = [run_started(definition), scheduled("a"), scheduled("c"), started("a"), started("c"), failed("a")]
    given(definition, *history).when(receive("paid")).then(latched("paid", 1), scheduled("b"))


def test_rule_12_a_failure_that_may_yet_be_handled_lets_waits_hold_the_run() -> None:
    definition = define(task("a", "go"), task("b", {"all": ["a.failed", "approved"]}))
    history = [run_started(definition), scheduled("a"), started("a")]
    waiting = given(definition, *history).when(fail("a")).then(failed("a"))
    waiting.when(receive("approved")).then(latched("approved", 1), scheduled("b"))
    given(definition, *history, failed("a"), latched("approved", 1), scheduled("b"), started("b")).when(
        complete("b")
    ).then(completed("b"), run_completed())


# fail_fast


def fail_fast(*more: dict[str, object]) -> Definition:
    return define(task("a", "go"), task("b", "go"), *more, fail_fast=True)


REASON = "task a failed and `fail_fast` is set"


def test_rule_12_fail_fast_starts_nothing_new_and_cancels_what_has_not_begun() -> None:
    definition = fail_fast(task("c", "go"), task("d", "a.ended"), task("e", depends_on=["b"]))
    history = [
        *[run_started(definition), scheduled("a"), scheduled("b"), scheduled("c"), started("a"), started("c")],
        failed("c", retry_at=LATER),
    ]
    rest = f"the run is stopping: {REASON}"
    given(definition, *history).when(fail("a")).then(
        failed("a"),
        stopping("failed", REASON),
        cancelled("b"),
        cancelled("c"),
        skipped("d", rest),
        skipped("e", rest),
        run_failed("a"),
    )


def test_rule_12_fail_fast_waits_for_what_is_under_way() -> None:
    definition = fail_fast(task("c", depends_on=["b"]))
    history = [run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b")]
    one = given(definition, *history).when(fail("a")).then(failed("a"), stopping("failed", REASON))
    one.when(complete("b")).then(
        completed("b"), skipped("c", f"the run is stopping: {REASON}"), run_failed("a")
    )  # fmt: skip


def test_rule_12_fail_fast_stops_a_run_once() -> None:
    definition = fail_fast(task("c", "go"))
    history = [run_started(definition), *map(scheduled, "abc"), *map(started, "abc"), failed("a")]
    given(definition, *history, stopping("failed", REASON)).when(fail("b")).then(failed("b"))


def test_rule_13_fail_fast_does_not_overrule_a_cancel() -> None:
    definition = fail_fast()
    history = [run_started(definition), *map(scheduled, "ab"), *map(started, "ab"), stopping("cancelled")]
    given(definition, *history).when(fail("a")).then(failed("a"))


@pytest.mark.parametrize("speed", ["handled", "not handled"])
def test_rule_12_fail_fast_lets_a_handler_try_first(speed: str) -> None:
    definition = fail_fast(task("c", "a.failed"))
    history = [run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b")]
    one = given(definition, *history).when(fail("a")).then(failed("a"), scheduled("c"))
    begun = given(definition, *history, *one.events, started("c"))
    if speed == "handled":
        begun.when(complete("c")).then(completed("c")).when(complete("b")).then(completed("b"), run_completed())
    else:
        begun.when(fail("c")).then(failed("c"), stopping("failed", REASON))


def test_rule_12_fail_fast_leaves_a_failure_that_is_let_pass() -> None:
    definition = fail_fast(task("c", "go", on_failure="continue"))
    history = [run_started(definition), *map(scheduled, "abc"), *map(started, "abc")]
    given(definition, *history).when(fail("c")).then(failed("c"))

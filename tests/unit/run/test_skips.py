"""Rule 10: what can no longer come true is skipped; what is asked before a task starts."""

from typing import Any

import pytest

from .given import (
    complete,
    completed,
    define,
    fail,
    failed,
    given,
    interrupt,
    interrupted,
    latched,
    ran,
    receive,
    run_completed,
    run_failed,
    run_started,
    scheduled,
    scheduled_again,
    skipped,
    start,
    started,
    stopping,
    task,
    unscheduled,
)


def test_rule_10_skips_propagate_each_naming_the_dead_one() -> None:
    definition = define(
        task("a", "go"), task("b", "a.failed"), task("c", depends_on=["b"]), task("d", {"all": ["c.completed", "paid"]})
    )
    history = [run_started(definition), scheduled("a"), started("a")]
    given(definition, *history).when(complete("a")).then(
        completed("a"),
        skipped("b", "a completed, not failed"),
        skipped("c", "b was skipped, not completed"),
        skipped("d", "c was skipped, not completed"),
        run_completed(),
    )


def test_rule_10_a_skip_names_a_dead_one_for_each_trigger() -> None:
    definition = define(task("a", "go"), task("b", "go"), task("c", "a.failed", {"all": ["b.failed", "a.completed"]}))
    history = [run_started(definition), *ran("a"), scheduled("b"), started("b")]
    given(definition, *history).when(complete("b")).then(
        completed("b"), skipped("c", "a completed, not failed; b completed, not failed"), run_completed()
    )


def test_rule_10_a_skip_with_very_many_reasons_says_how_many_more() -> None:
    definition = define(*(task(f"t{n}", "go") for n in range(9)), task("c", *(f"t{n}.failed" for n in range(9))))
    done = [event for n in range(8) for event in ran(f"t{n}")]
    history = [run_started(definition), *done, scheduled("t8"), started("t8")]
    reasons = "; ".join(f"t{n} completed, not failed" for n in range(6))
    given(definition, *history).when(complete("t8")).then(
        completed("t8"), skipped("c", f"{reasons}; and 3 more"), run_completed()
    )


def test_rule_10_joins_after_branches_use_done() -> None:
    definition = define(
        task("a", "go"), task("b", "a.failed"), task("c", depends_on=["a"]), task("d", {"all": ["b.done", "c.done"]})
    )
    history = [run_started(definition), scheduled("a"), started("a")]
    one = given(definition, *history).when(complete("a"))
    one.then(completed("a"), skipped("b", "a completed, not failed"), scheduled("c"))
    given(definition, *history, *one.events, started("c")).when(complete("c")).then(completed("c"), scheduled("d"))


# `when`


def guarded(when: str, **more: Any) -> Any:
    definition = define(task("a", "go"), task("b", "a.completed", when=when, **more))
    return given(definition, run_started(definition, payload={"n": 2}), scheduled("a"), started("a"))


def test_rule_10_when_true_lets_the_task_run() -> None:
    guarded("input.n == 2").when(complete("a")).then(completed("a"), scheduled("b"))


def test_rule_10_when_false_skips_the_task() -> None:
    guarded("input.n == 3").when(complete("a")).then(completed("a"), skipped("b", "`when` is false"), run_completed())


@pytest.mark.parametrize(("when", "value"), [("input.n", "2"), ("'yes'", '"yes"'), ("null", "null")])
def test_rule_10_a_when_that_is_not_a_boolean_fails_the_task(when: str, value: str) -> None:
    guarded(when).when(complete("a")).then(
        completed("a"), unscheduled("b", "GuardError", f"`when` gave {value}, not true or false"), run_failed("b")
    )


def test_a_when_without_a_value_fails_the_task() -> None:
    events = guarded("input.m == 2").when(complete("a")).events
    assert [type(event).__name__ for event in events] == ["TaskCompleted", "TaskFailed", "RunFailed"]
    assert events[1].error.value["type"] == "TemplateError"


def test_rule_10_when_is_evaluated_once_when_the_triggers_hold() -> None:
    definition = define(
        task("a", "go"),
        task("b", {"all": ["a.completed", "paid"]}, when="event.name == 'paid'"),
    )
    history = [run_started(definition), *ran("a")]
    one = given(definition, *history).when(receive("paid")).then(latched("paid", 1), scheduled("b"))
    again = given(definition, *history, *one.events, started("b")).when(interrupt("b"))
    again.then(interrupted("b"), scheduled_again("b", 2))


def test_a_when_that_skips_is_not_asked_again_by_another_trigger() -> None:
    either = task("c", "a.completed", "b.completed", when="event.name == 'b.completed'")
    definition = define(task("a", "go"), task("b", "go"), either)
    history = [run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b")]
    one = given(definition, *history).when(complete("a")).then(completed("a"), skipped("c", "`when` is false"))
    one.when(complete("b")).then(completed("b"), run_completed())


# Waiting for a completion that does not come


def test_who_waits_for_any_completion_is_skipped_when_the_run_comes_to_rest() -> None:
    definition = define(task("a", "go", on_failure="continue"), task("b", "task_completed"))
    history = [run_started(definition), scheduled("a"), started("a")]
    given(definition, *history).when(fail("a")).then(
        failed("a"), skipped("b", "no other task completed"), run_completed()
    )


def test_who_waits_for_a_completion_that_did_not_come_is_skipped_when_the_run_comes_to_rest() -> None:
    wait = {"event": "task_completed", "where": "event.payload.task_id == 'z'"}
    definition = define(task("a", "go"), task("b", wait))
    history = [run_started(definition), scheduled("a"), started("a")]
    given(definition, *history).when(complete("a")).then(
        completed("a"), skipped("b", "`where` was true of no task that completed"), run_completed()
    )


@pytest.mark.parametrize("turned", [False, True])
def test_who_depends_on_such_a_skip_goes_on_wherever_it_stands_in_the_document(turned: bool) -> None:
    tasks = [task("a", "go", on_failure="continue"), task("b", "task_completed"), task("c", "b.done")]
    definition = define(*(reversed(tasks) if turned else tasks))
    history = [run_started(definition), scheduled("a"), started("a")]
    one = given(definition, *history).when(fail("a"))
    one.then(failed("a"), skipped("b", "no other task completed"), scheduled("c"))


@pytest.mark.parametrize("turned", [False, True])
def test_a_completion_after_such_a_skip_still_triggers_who_waits_for_both(turned: bool) -> None:
    tasks = [
        task("a", "go", on_failure="continue"),
        task("b", "task_completed"),
        task("c", "b.skipped"),
        task("d", {"all": ["b.done", "task_completed"]}),
    ]
    definition = define(*(reversed(tasks) if turned else tasks))
    history = [run_started(definition), scheduled("a"), started("a")]
    one = given(definition, *history).when(fail("a"))
    one.then(failed("a"), skipped("b", "no other task completed"), scheduled("c"))
    given(definition, *history, *one.events, started("c")).when(complete("c")).then(completed("c"), scheduled("d"))


def test_while_an_event_may_come_nobody_is_skipped_for_want_of_a_completion() -> None:
    definition = define(
        task("a", "go", on_failure="continue"), task("b", "task_completed"), task("c", {"all": ["a.failed", "paid"]})
    )
    history = [run_started(definition), scheduled("a"), started("a")]
    waiting = given(definition, *history).when(fail("a")).then(failed("a"))
    paid = waiting.when(receive("paid"))
    paid.then(latched("paid", 1), scheduled("c"))
    given(definition, *history, failed("a"), *paid.events, started("c")).when(complete("c")).then(
        completed("c"), scheduled("b")
    )


def test_what_is_left_of_a_stopping_run_is_skipped_with_its_reason() -> None:
    definition = define(task("a", "go"), task("b", depends_on=["a"]))
    history = [run_started(definition), scheduled("a"), started("a"), stopping(reason="too dear")]
    events = given(definition, *history).when(complete("a")).events
    assert skipped("b", "the run is stopping: too dear") in events


def test_what_is_left_of_a_failing_run_is_skipped_naming_who_failed() -> None:
    definition = define(task("a", "go"), task("b", "go"), task("c", {"all": ["a.completed", "paid"]}))
    history = [run_started(definition), *ran("a"), scheduled("b"), started("b")]
    given(definition, *history).when(fail("b")).then(
        failed("b"), skipped("c", "the run fails: b failed"), run_failed("b")
    )


def test_what_a_start_skips_may_end_the_run_at_once() -> None:
    definition = define(task("a", "go", when="false"))
    given(definition).when(start()).then(run_started(definition), skipped("a", "`when` is false"), run_completed())

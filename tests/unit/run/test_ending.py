"""Rules 9, 13, 14 and 21: when a run ends, how, and with what."""

from typing import Any

import pytest

from perdure_engine.run import commands as c
from perdure_engine.run import events as e
from perdure_eventstore.door import Json

from .given import (
    LATER,
    STOPPED,
    Given,
    cancel,
    cancelled,
    complete,
    completed,
    deadline_due,
    define,
    fail,
    failed,
    given,
    ignored,
    interrupt,
    interrupted,
    latched,
    ran,
    receive,
    run_cancelled,
    run_completed,
    run_failed,
    run_started,
    scheduled,
    scheduled_again,
    skipped,
    start,
    started,
    stop,
    stopping,
    task,
    time_out,
    timed_out,
)

# Rule 9

BOTH = define(task("a", "go"), task("b", "go"))
HELD: dict[str, list[e.Event]] = {
    "scheduled": [],
    "under way": [started("a")],
    "on a timer": [started("a"), failed("a", retry_at=LATER)],
    "scheduled again": [started("a"), interrupted("a"), scheduled_again("a", 2)],
}


@pytest.mark.parametrize("events", HELD.values(), ids=list(HELD))
def test_rule_9_a_run_is_open_while_a_task_is(events: list[e.Event]) -> None:
    history = [run_started(BOTH), scheduled("a"), scheduled("b"), *events, started("b")]
    assert given(BOTH, *history).when(complete("b")).then(completed("b")).state.status == "open"


def test_rule_9_a_run_is_open_while_a_wait_is_live() -> None:
    definition = define(task("a", "go"), task("b", {"all": ["a.completed", "paid"]}))
    waiting = given(definition, run_started(definition), scheduled("a"), started("a")).when(complete("a"))
    waiting.then(completed("a")).when(receive("paid")).then(latched("paid", 1), scheduled("b"))


def test_rule_9_a_wait_for_an_event_that_can_make_no_difference_is_not_live() -> None:
    definition = define(task("a", "go"), task("b", "a.completed", "paid"))
    history = [run_started(definition), *ran("a"), scheduled("b"), started("b")]
    given(definition, *history).when(complete("b")).then(completed("b"), run_completed())


def test_rule_9_a_wait_for_the_runs_own_completions_does_not_hold_it() -> None:
    wait = {"event": "task_completed", "where": "event.payload.task_id == 'b'", "within": "1h"}
    definition = define(task("a", "go"), task("b", wait))
    history = [run_started(definition), scheduled("a"), started("a")]
    assert given(definition, *history).when(complete("a")).state.status == "completed"


def test_a_wait_for_the_runs_own_completions_has_a_timer_if_it_has_an_end() -> None:
    armed = {"event": "task_completed", "within": 10}
    definition = define(task("a", "go"), task("b", armed), task("c", {"event": "task_completed"}))
    begun = given(definition).when(start()).events[0]
    assert isinstance(begun, e.RunStarted)
    assert begun.waits == (e.WaitArmed(1, "task_completed", LATER),)


# Rule 13


def test_rule_13_a_run_completes_even_if_all_was_skipped() -> None:
    definition = define(task("a", "go", when="false"), task("b", depends_on=["a"]))
    events = given(definition).when(start()).events
    assert events[1:] == [
        skipped("a", "`when` is false"),
        skipped("b", "a was skipped, not completed"),
        run_completed(),
    ]


def under_way(**more: Any) -> tuple[e.Event, ...]:
    """``a`` is under way, ``b`` is scheduled, ``c`` waits for its retry, ``d`` waits for ``a``, ``w`` for an event."""
    return (
        *[run_started(DEFINITION, **more), scheduled("a"), scheduled("b"), scheduled("c")],
        *[started("a"), started("c"), failed("c", retry_at=LATER)],
    )


DEFINITION = define(
    *[task("a", "go"), task("b", "go"), task("c", "go"), task("d", "a.completed"), task("w", "paid")],
    start=["go"],
)
REST = [skipped("d", f"the run is stopping: {STOPPED}"), skipped("w", f"the run is stopping: {STOPPED}")]


def stopping_run(outcome: e.Outcome = "cancelled") -> Given:
    """A run with ``a`` under way as it is stopped."""
    stopped = given(DEFINITION, *under_way()).when(stop(outcome))
    return stopped.then(stopping(outcome), cancelled("b"), cancelled("c"))


ENDS: dict[e.Outcome, e.RunEvent] = {
    "cancelled": run_cancelled(),
    "timed_out": e.RunTimedOut(),
    "failed": e.RunFailed(error=Json.of({"type": "Stopped", "message": STOPPED})),
}


@pytest.mark.parametrize(("outcome", "end"), ENDS.items())
def test_rule_21_a_stop_ends_at_once_what_has_not_begun_and_the_run_when_the_rest_has_ended(
    outcome: e.Outcome, end: e.RunEvent
) -> None:
    ended = stopping_run(outcome).when(cancel("a")).then(cancelled("a"), *REST, end)
    assert ended.state.status == outcome


def test_rule_21_a_completion_inside_the_grace_is_recorded_and_makes_nothing_ready() -> None:
    ended = stopping_run().when(complete("a", 1)).then(completed("a", 1), *REST, run_cancelled())
    assert ended.state.task("a").output == Json(b"1")


def test_rule_21_a_completion_inside_the_grace_latches_nothing() -> None:
    definition = define(task("a", "go"), task("b", {"event": "task_completed"}))
    history = [run_started(definition), scheduled("a"), started("a"), stopping()]
    reason = f"the run is stopping: {STOPPED}"
    given(definition, *history).when(complete("a")).then(completed("a"), skipped("b", reason), run_cancelled())


@pytest.mark.parametrize(
    ("command", "event"), [(fail("a", max_attempts=3), failed("a")), (time_out("a", max_attempts=3), timed_out("a"))]
)
def test_rule_21_what_fails_inside_the_grace_is_not_retried(command: c.RunCommand, event: e.RunEvent) -> None:
    stopping_run().when(command).then(event, *REST, run_cancelled())


@pytest.mark.parametrize("clean", [False, True])
def test_rule_21_what_is_interrupted_inside_the_grace_is_cancelled(clean: bool) -> None:
    stopping_run().when(interrupt("a", clean=clean)).then(
        interrupted("a", clean=clean), cancelled("a"), *REST, run_cancelled()
    )


def test_a_stop_with_nothing_under_way_ends_the_run() -> None:
    definition = define(task("a", "go"), task("b", depends_on=["a"]))
    history = [run_started(definition), scheduled("a")]
    reason = f"the run is stopping: {STOPPED}"
    given(definition, *history).when(stop()).then(stopping(), cancelled("a"), skipped("b", reason), run_cancelled())


def test_a_stop_of_a_run_that_only_waits_ends_it() -> None:
    definition = define(task("a", {"all": ["go", "paid"]}), start=["go"])
    reason = f"the run is stopping: {STOPPED}"
    given(definition, run_started(definition)).when(stop()).then(stopping(), skipped("a", reason), run_cancelled())


def test_a_stop_ends_what_it_ends_in_the_order_of_the_document() -> None:
    names = [f"t{number}" for number in range(40)]
    definition = define(*(task(name, "go") for name in names))
    events = given(definition, run_started(definition), *map(scheduled, names)).when(stop()).events
    assert events == [stopping(), *map(cancelled, names), run_cancelled()]


def test_a_run_that_has_not_started_is_not_stopped() -> None:
    given(BOTH).when(stop()).then_nothing()


def test_rule_13_cancelled_beats_an_unhandled_failure() -> None:
    definition = define(task("a", "go"), task("b", "go"))
    history = [run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b"), failed("a")]
    given(definition, *history, stopping()).when(cancel("b")).then(cancelled("b"), run_cancelled())


def test_the_deadline_stops_a_run() -> None:
    definition = define(task("a", "go"), deadline=10)
    late = given(definition, run_started(definition, deadline=LATER), scheduled("a"), started("a")).when(deadline_due())
    late.then(stopping("timed_out", "its deadline passed"))
    late.when(cancel("a")).then(cancelled("a"), e.RunTimedOut())


def test_a_deadline_while_the_run_is_stopping_changes_nothing() -> None:
    stopping_run().when(deadline_due()).then_nothing()


@pytest.mark.parametrize(
    ("history", "status"),
    [
        ([stopping()], "stopping"),
        ([completed("a"), run_completed()], "completed"),
        ([failed("a"), run_failed("a")], "failed"),
    ],
)
def test_an_event_that_reaches_a_run_that_is_not_open_is_ignored(history: list[e.Event], status: str) -> None:
    definition = define(task("a", "go"))
    given(definition, run_started(definition), scheduled("a"), started("a"), *history).when(receive("paid")).then(
        ignored("paid", f"the run is {status}")
    )


# Rule 14


def result(*history: e.Event, **more: Any) -> Any:
    definition = define(
        task("a", "go"), task("b", "a.failed"), task("c", depends_on=["a"], on_failure="continue"), **more
    )
    return given(definition, run_started(definition, payload={"n": 1}), *history)


def test_rule_14_the_result_is_the_outputs_of_the_completed_tasks() -> None:
    history = [*ran("a", 1), skipped("b", ""), scheduled("c"), started("c")]
    assert result(*history).when(complete("c", None)).state.result() == Json(b'{"a":1,"c":null}')
    assert result(*history).when(fail("c")).state.result() == Json(b'{"a":1}')


def test_rule_14_or_else_the_output_template() -> None:
    history = [*ran("a", 1), skipped("b", ""), scheduled("c"), started("c")]
    output = {"sum": "{{tasks.a.output + input.n}}", "of": "{{run.workflow_id}}", "b": "{{tasks.b.status}}"}
    ended = result(*history, output=output).when(complete("c"))
    made = Json.of({"sum": 2, "of": "w", "b": "skipped"})
    assert ended.then(completed("c"), run_completed(made)).state.result() == made


def test_rule_14_an_output_of_null_is_a_result() -> None:
    history = [*ran("a", 1), skipped("b", ""), scheduled("c"), started("c")]
    assert result(*history, output=None).when(complete("c")).state.result() == Json(b"null")


def test_an_output_without_a_value_fails_the_run() -> None:
    history = [*ran("a", 1), skipped("b", ""), scheduled("c"), started("c")]
    ended = result(*history, output="{{tasks.b.output}}").when(complete("c"))
    end = ended.events[-1]
    assert isinstance(end, e.RunFailed)
    assert end.error is not None
    assert end.error.value["type"] == "TemplateError"
    assert end.error.value["message"].startswith("the run's output: /output: `tasks.b.output` has no value")
    assert ended.state.error == end.error


def test_a_run_that_fails_is_not_asked_for_its_output() -> None:
    history = [scheduled("a"), started("a"), failed("a"), scheduled("b"), started("b"), skipped("c", "")]
    result(*history, output="{{tasks.a.output}}").when(fail("b")).then(failed("b"), run_failed("a", "b"))

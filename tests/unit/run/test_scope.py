"""Rules 16 to 18: what a template of a run sees, and what becomes of one that has no value."""

from typing import Any

import pytest

from perdure_engine.run import events as e
from perdure_eventstore.door import Json

from .given import (
    ERROR,
    RUN,
    Given,
    complete,
    completed,
    define,
    fail,
    failed,
    given,
    latched,
    ran,
    receive,
    run_failed,
    run_started,
    scheduled,
    skipped,
    start,
    started,
    task,
)


def inputs_at_start(template: Any, payload: Any = None, **more: Any) -> Any:
    """What ``template`` is in a run's first task."""
    definition = define(task("a", "go", inputs={"x": template}))
    event = given(definition).when(start("go", payload, **more)).events[1]
    assert isinstance(event, e.TaskScheduled)
    assert event.inputs is not None
    return event.inputs.value["x"]


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{user.name}}", "Ada"),
        ("{{input.user.name}}", "Ada"),
        ("{{event.payload.user.name}}", "Ada"),
        ("{{event.name}}", "go"),
        ("{{event.key}}", "k"),
        ("{{event.id}}", "019a0000-0000-7000-8000-0000000000e0"),
        ("{{run.id}}", str(RUN)),
        ("{{run.workflow_id}}", "w"),
        ("{{run.key}}", "k"),
        ("{{user}}", {"name": "Ada"}),
    ],
)
def test_rule_18_what_is_known_at_the_start(template: str, value: Any) -> None:
    assert inputs_at_start(template, {"user": {"name": "Ada"}}, key="k") == value


def test_rule_18_the_roots_win_over_fields() -> None:
    assert inputs_at_start("{{event.name}}", {"event": {"name": "mine"}}) == "go"
    assert inputs_at_start("{{input.event.name}}", {"event": {"name": "mine"}}) == "mine"


def test_rule_16_what_a_template_gave_is_never_read_again() -> None:
    assert inputs_at_start("{{text}}", {"text": "{{run.id}}"}) == "{{run.id}}"


def test_rule_18_event_is_what_made_the_task_ready() -> None:
    names = {"by": "{{event.name}}", "with": "{{event.payload}}"}
    definition = define(task("a", "go"), task("b", "a.completed", "paid", inputs=names))
    history = [run_started(definition), scheduled("a"), started("a")]
    given(definition, *history).when(receive("paid", {"n": 1})).then(
        latched("paid", 1, payload={"n": 1}), scheduled("b", {"by": "paid", "with": {"n": 1}})
    )
    given(definition, *history).when(complete("a", 7)).then(
        completed("a", 7), scheduled("b", {"by": "a.completed", "with": 7})
    )


def test_rule_18_under_all_it_is_the_last_and_events_has_each_by_name() -> None:
    inputs = {"last": "{{event.name}}", "go": "{{events.go.payload.n}}", "paid": '{{events["paid"].payload.n}}'}
    definition = define(task("a", {"all": ["go", "paid"]}, inputs=inputs), start=["go"])
    given(definition, run_started(definition, payload={"n": 1})).when(receive("paid", {"n": 2})).then(
        latched("paid", 1, payload={"n": 2}), scheduled("a", {"last": "paid", "go": 1, "paid": 2})
    )


@pytest.mark.parametrize("on", ["skipped", "done", "ended"])
def test_rule_18_the_end_of_a_task_is_named_by_its_status_and_a_skip_says_why(on: str) -> None:
    inputs = {"by": "{{event.name}}", "why": "{{event.payload}}"}
    definition = define(task("a", "go"), task("b", "a.failed"), task("c", f"b.{on}", inputs=inputs))
    history = [run_started(definition), scheduled("a"), started("a")]
    reason = "a completed, not failed"
    given(definition, *history).when(complete("a")).then(
        completed("a"), skipped("b", reason), scheduled("c", {"by": "b.skipped", "why": {"reason": reason}})
    )


def joined(template: str) -> Given:
    """``a`` fails, ``b`` completed with 1, ``c`` was skipped; ``d`` reads ``template`` after all of them."""
    after = {"all": ["a.ended", "b.ended", "c.ended"]}
    definition = define(
        *[task("a", "go"), task("b", "go"), task("c", "b.failed"), task("d", after, inputs={"x": template})]
    )
    history = [run_started(definition), *ran("b", {"n": 1}), skipped("c", ""), scheduled("a"), started("a")]
    return given(definition, *history)


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{tasks.a.status}}", "failed"),
        ("{{tasks.a.error.message}}", "no"),
        ("{{tasks.b.output.n}}", 1),
        ("{{tasks.c.status}}", "skipped"),
        ("{{default(tasks.c.output, 'none')}}", "none"),
        ("{{default(tasks.a.output, 'none')}}", "none"),
        ("{{default(tasks.b.error, 'none')}}", "none"),
        ("{{tasks.b.status + tasks.c.status}}", "completedskipped"),
    ],
)
def test_rule_18_tasks_have_their_status_and_output_or_error(template: str, value: Any) -> None:
    joined(template).when(fail("a")).then(failed("a", error=ERROR), scheduled("d", {"x": value}))


@pytest.mark.parametrize("template", ["{{tasks.c.output}}", "{{tasks.a.output}}", "{{tasks.b.error}}", "{{missing}}"])
def test_rule_17_missing_fails_the_task_unretried(template: str) -> None:
    events = joined(template).when(fail("a")).events
    assert [type(event).__name__ for event in events] == ["TaskFailed", "TaskFailed", "RunFailed"]
    fault = events[1]
    assert isinstance(fault, e.TaskFailed)
    assert (fault.task_id, fault.attempt, fault.retry_at) == ("d", 0, None)
    assert fault.error.value["type"] == "TemplateError"
    assert template.strip("{}") in fault.error.value["message"]


def test_rule_15_a_template_error_never_retries_whatever_the_policy() -> None:
    definition = define(task("a", "go", inputs={"x": "{{missing}}"}, retry=5))
    events = given(definition).when(start()).events
    assert [type(event).__name__ for event in events] == ["RunStarted", "TaskFailed", "RunFailed"]
    assert events[-1] == run_failed("a")


def test_a_task_that_failed_before_its_first_attempt_is_neither_active_nor_waiting() -> None:
    definition = define(task("a", "go", inputs={"x": "{{missing}}"}), task("b", "go"), task("c", "a.failed", "paid"))
    state = given(definition).when(start()).state
    assert (state.active, state.ended, state.task("a").attempt) == (2, 1, 0)
    assert not state.live_waits


def test_null_false_zero_and_nothing_are_values() -> None:
    values: list[Any] = [None, False, 0, "", [], {}]
    for value in values:
        assert inputs_at_start("{{v}}", {"v": value}) == value


def test_inputs_are_recorded_exactly() -> None:
    definition = define(task("a", "go", inputs={"n": "{{n}}", "f": 1.0}))
    number = Json(b'{"n":18446744073709551615}')
    begun = given(definition).when(start("go", number.value)).events[1]
    assert begun == e.TaskScheduled(task_id="a", attempt=1, inputs=Json(b'{"n":18446744073709551615,"f":1.0}'))

"""What makes a task ready: task ends, events, all and any of them."""

from typing import Any
from uuid import UUID

import pytest

from perdure_engine.run import events as e
from perdure_eventstore.door import Json

from .given import (
    ERROR,
    GO,
    complete,
    completed,
    define,
    expired,
    fail,
    failed,
    given,
    ignored,
    latched,
    ran,
    receive,
    run_completed,
    run_started,
    scheduled,
    skipped,
    started,
    task,
    wait_due,
)

SECOND = UUID(int=2)


# Rule 2: the ends of tasks


def after(on: str, **more: Any) -> Any:
    """A run whose task ``a`` is under way and whose task ``b`` is triggered by ``a.on``."""
    definition = define(task("a", "go", **more), task("b", f"a.{on}"))
    return given(definition, run_started(definition), scheduled("a"), started("a"))


@pytest.mark.parametrize("on", ["completed", "done", "ended"])
def test_rule_2_a_completed_task_is_completed_done_and_ended(on: str) -> None:
    after(on).when(complete("a", 1)).then(completed("a", 1), scheduled("b"))


@pytest.mark.parametrize("on", ["failed", "skipped"])
def test_rule_2_a_completed_task_is_neither_failed_nor_skipped(on: str) -> None:
    reason = f"a completed, not {on}"
    after(on).when(complete("a")).then(completed("a"), skipped("b", reason), run_completed())


@pytest.mark.parametrize("on", ["failed", "ended"])
def test_rule_2_a_failed_task_is_failed_and_ended(on: str) -> None:
    after(on).when(fail("a")).then(failed("a"), scheduled("b"))


@pytest.mark.parametrize("on", ["completed", "skipped", "done"])
def test_rule_2_a_failed_task_is_neither_completed_nor_skipped_nor_done(on: str) -> None:
    events = after(on).when(fail("a")).events
    assert events[:2] == [failed("a"), skipped("b", f"a failed, not {on}")]


def test_rule_2_a_failure_that_is_let_pass_is_done() -> None:
    after("done", on_failure="continue").when(fail("a")).then(failed("a"), scheduled("b"))


@pytest.mark.parametrize("on", ["skipped", "done", "ended"])
def test_rule_2_a_skipped_task_is_skipped_done_and_ended(on: str) -> None:
    definition = define(task("s", "go"), task("a", "s.failed"), task("b", f"a.{on}"))
    history = [run_started(definition), scheduled("s"), started("s")]
    given(definition, *history).when(complete("s")).then(
        completed("s"), skipped("a", "s completed, not failed"), scheduled("b")
    )


@pytest.mark.parametrize("on", ["completed", "failed"])
def test_rule_2_a_skipped_task_is_neither_completed_nor_failed(on: str) -> None:
    definition = define(task("s", "go"), task("a", "s.failed"), task("b", f"a.{on}"))
    history = [run_started(definition), scheduled("s"), started("s")]
    given(definition, *history).when(complete("s")).then(
        completed("s"),
        skipped("a", "s completed, not failed"),
        skipped("b", f"a was skipped, not {on}"),
        run_completed(),
    )


# Rule 2: the seed's task_completed


def test_rule_2_a_bare_task_completed_is_the_first_completion_of_any_other_task() -> None:
    definition = define(task("a", "go"), task("b", "go"), task("c", "task_completed"))
    history = [run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b")]
    first = given(definition, *history).when(complete("b")).then(completed("b"), scheduled("c"))
    first.when(complete("a")).then(completed("a"))


def test_rule_2_a_failure_is_no_bare_task_completed() -> None:
    definition = define(task("a", "go", on_failure="continue"), task("b", "go"), task("c", "task_completed"))
    history = [run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b")]
    given(definition, *history).when(fail("a")).then(failed("a"))


def test_rule_2_of_two_that_wait_for_any_completion_each_is_the_others_other() -> None:
    definition = define(task("r", "go"), task("a", "go", "task_completed"), task("b", "task_completed"))
    history = [run_started(definition), scheduled("r"), scheduled("a"), started("a")]
    given(definition, *history).when(complete("a")).then(completed("a"), scheduled("b"))


def test_rule_2_task_completed_with_where_is_the_first_completion_that_meets_it() -> None:
    where = "event.payload.task_id == 'b' && event.payload.output.ok"
    definition = define(task("a", "go"), task("b", "go"), task("c", {"event": "task_completed", "where": where}))
    history = [run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b")]
    first = given(definition, *history).when(complete("a", {"ok": True})).then(completed("a", {"ok": True}))
    payload = {"task_id": "b", "output": {"ok": True}}
    first.when(complete("b", {"ok": True})).then(
        completed("b", {"ok": True}), latched("task_completed", 1, payload=payload, id_=None), scheduled("c")
    )


def test_rule_2_task_completed_as_an_event_is_the_first_completion() -> None:
    definition = define(
        task("a", "go"), task("c", {"event": "task_completed"}, inputs={"of": "{{event.payload.task_id}}"})
    )
    history = [run_started(definition), scheduled("a"), started("a")]
    payload = {"task_id": "a", "output": None}
    given(definition, *history).when(complete("a")).then(
        completed("a"), latched("task_completed", 1, payload=payload, id_=None), scheduled("c", {"of": "a"})
    )


def test_rule_2_a_task_completed_that_comes_too_late_is_over() -> None:
    wait = {"event": "task_completed", "within": 5}
    definition = define(task("a", "go"), task("b", wait))
    history = [run_started(definition), scheduled("a"), started("a")]
    late = given(definition, *history).when(wait_due(1))
    late.then(expired("task_completed", 1), skipped("b", "task_completed did not come in time"))
    late.when(complete("a")).then(completed("a"), run_completed())


# Rule 3: any, all, depends_on


def test_rule_3_a_list_of_triggers_is_any_of_them() -> None:
    definition = define(task("a", "go"), task("b", "go"), task("c", "a.completed", "b.completed"))
    history = [run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b")]
    first = given(definition, *history).when(complete("b")).then(completed("b"), scheduled("c"))
    first.when(complete("a")).then(completed("a"))


def test_rule_3_a_dead_trigger_leaves_the_others() -> None:
    definition = define(task("a", "go", on_failure="continue"), task("b", "go"), task("c", "a.completed", "b.done"))
    history = [run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b")]
    first = given(definition, *history).when(fail("a")).then(failed("a"))
    first.when(complete("b")).then(completed("b"), scheduled("c"))


def test_rule_3_all_is_all_of_them() -> None:
    definition = define(task("a", "go"), task("b", "go"), task("c", {"all": ["a.completed", "b.completed", "paid"]}))
    history = [run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b")]
    one = given(definition, *history).when(complete("a")).then(completed("a"))
    two = one.when(receive("paid")).then(latched("paid", 1))
    two.when(complete("b")).then(completed("b"), scheduled("c"))


def test_rule_3_depends_on_is_all_completed() -> None:
    definition = define(task("a", "go"), task("b", "go"), task("c", depends_on=["a", "b"]))
    history = [run_started(definition), scheduled("a"), scheduled("b"), started("a"), started("b")]
    one = given(definition, *history).when(complete("a")).then(completed("a"))
    one.when(complete("b")).then(completed("b"), scheduled("c"))


def test_rule_3_depends_on_joins_each_of_the_triggers() -> None:
    definition = define(task("a", "go"), task("c", "paid", "waived", depends_on=["a"]))
    history = [run_started(definition), scheduled("a"), started("a")]
    one = given(definition, *history).when(receive("waived")).then(latched("waived", 2))
    one.when(complete("a")).then(completed("a"), scheduled("c"))


# Rule 6: events latch


PAID = define(task("a", "go"), task("b", {"all": ["a.completed", "paid"]}))
UNDER_WAY = [run_started(PAID), scheduled("a"), started("a")]


def test_rule_6_an_event_latches_before_the_rest_of_its_trigger_holds() -> None:
    early = given(PAID, *UNDER_WAY).when(receive("paid")).then(latched("paid", 1))
    early.when(complete("a")).then(completed("a"), scheduled("b"))


def test_rule_6_repeats_are_recorded_as_ignored() -> None:
    again = given(PAID, *UNDER_WAY, latched("paid", 1)).when(receive("paid", id_=SECOND))
    again.then(ignored("paid", "an earlier one was taken", SECOND))


def test_rule_6_the_starting_event_repeated_is_ignored() -> None:
    given(PAID, *UNDER_WAY).when(receive("go")).then(ignored("go", "an earlier one was taken"))


@pytest.mark.parametrize("first", [latched("paid", 1), ignored("paid", "whatever")])
def test_rule_6_the_same_event_again_is_nothing_new(first: e.RunEvent) -> None:
    given(PAID, *UNDER_WAY, first).when(receive("paid")).then_nothing()


def test_rule_6_the_starting_event_itself_again_is_nothing_new() -> None:
    given(PAID, *UNDER_WAY).when(receive("go", id_=GO)).then_nothing()


def test_rule_6_an_event_nobody_waits_for_is_ignored() -> None:
    given(PAID, *UNDER_WAY).when(receive("weather")).then(ignored("weather", "nothing in this run waits for it"))


def test_rule_6_one_event_latches_every_trigger_it_meets_and_no_other() -> None:
    definition = define(
        task("a", "go"),
        task("b", {"all": ["a.completed", {"event": "paid", "where": "event.payload.n > 1"}]}),
        task("c", {"all": ["a.completed", {"event": "paid", "where": "event.payload.n > 2"}]}),
        task("d", {"all": ["a.completed", {"event": "paid", "where": "event.payload.n > 3"}]}),
    )
    history = [run_started(definition), *ran("a")]
    one = given(definition, *history).when(receive("paid", {"n": 3}))
    one.then(latched("paid", 1, 2, payload={"n": 3}), scheduled("b"), scheduled("c"))
    one.when(receive("paid", {"n": 3}, SECOND)).then(ignored("paid", "`where` is not true of it", SECOND))


@pytest.mark.parametrize("payload", [{"n": 1}, {}, {"n": "much"}])
def test_rule_6_an_event_whose_where_is_not_true_is_ignored(payload: dict[str, Any]) -> None:
    where = {"event": "paid", "where": "event.payload.n == input.n"}
    definition = define(task("a", "go"), task("b", {"all": ["a.completed", where]}))
    history = [run_started(definition, payload={"n": 2}), scheduled("a"), started("a")]
    first = given(definition, *history).when(receive("paid", payload))
    first.then(ignored("paid", "`where` is not true of it"))
    first.when(receive("paid", {"n": 2}, SECOND)).then(latched("paid", 1, payload={"n": 2}, id_=SECOND))


@pytest.mark.parametrize("where", ["event.payload.n", "'yes'", "null"])
def test_rule_6_a_where_that_is_not_a_boolean_is_not_true(where: str) -> None:
    definition = define(task("a", "go"), task("b", {"all": ["a.completed", {"event": "paid", "where": where}]}))
    history = [run_started(definition), scheduled("a"), started("a")]
    given(definition, *history).when(receive("paid", {"n": 1})).then(ignored("paid", "`where` is not true of it"))


def test_rule_6_a_wait_is_no_longer_live_once_its_task_was_made_ready_otherwise() -> None:
    definition = define(task("a", "go"), task("b", "a.completed", "paid"))
    given(definition, run_started(definition), *ran("a"), scheduled("b")).when(receive("paid")).then(
        ignored("paid", "nothing in this run waits for it")
    )


def test_rule_6_a_wait_is_no_longer_live_once_the_rest_of_its_trigger_is_dead() -> None:
    definition = define(task("a", "go"), task("b", {"all": ["a.failed", "paid"]}), task("c", "a.completed"))
    state = given(definition, run_started(definition), scheduled("a"), started("a")).when(complete("a")).state
    assert not state.live_waits


def test_rule_6_a_wait_shared_by_two_tasks_lives_until_neither_waits() -> None:
    definition = define(task("a", "go"), task("b", "a.completed", "paid"), task("c", {"all": ["a.ended", "paid"]}))
    history = [run_started(definition), *ran("a"), *ran("b")]
    given(definition, *history).when(receive("paid")).then(latched("paid", 1), scheduled("c"))


def test_rule_6_a_task_runs_once_a_run() -> None:
    definition = define(task("a", "go"), task("b", "a.completed", "paid"), task("c", "paid", "b.completed"))
    history = [run_started(definition), *ran("a"), *ran("b")]
    one = given(definition, *history, scheduled("c"), started("c"))
    one.when(receive("paid")).then(ignored("paid", "nothing in this run waits for it"))


# Waits with an end


def test_rule_9_a_wait_whose_time_is_over_can_no_longer_come_true() -> None:
    definition = define(task("a", "go"), task("b", {"all": ["a.completed", {"event": "paid", "within": 5}]}))
    history = [run_started(definition), *ran("a")]
    over = given(definition, *history).when(wait_due(1))
    over.then(expired("paid", 1), skipped("b", "paid did not come in time"), run_completed())


def test_an_event_after_its_time_is_ignored() -> None:
    definition = define(task("a", "go"), task("b", {"all": ["a.completed", {"event": "paid", "within": 5}]}))
    history = [run_started(definition), scheduled("a"), started("a")]
    over = given(definition, *history).when(wait_due(1))
    over.then(expired("paid", 1), skipped("b", "paid did not come in time"))
    over.when(receive("paid")).then(ignored("paid", "its time was over"))


def test_a_wait_whose_time_is_over_leaves_the_other_triggers() -> None:
    definition = define(task("a", "go"), task("b", "a.completed", {"event": "paid", "within": 5}))
    history = [run_started(definition), scheduled("a"), started("a")]
    given(definition, *history).when(wait_due(1)).then(expired("paid", 1)).when(complete("a")).then(
        completed("a"), scheduled("b")
    )


@pytest.mark.parametrize("before", [latched("paid", 1), expired("paid", 1)])
def test_a_waits_timer_that_comes_late_is_nothing(before: e.RunEvent) -> None:
    definition = define(task("a", "go"), task("b", {"all": ["a.completed", {"event": "paid", "within": 5}]}))
    history = [run_started(definition), scheduled("a"), started("a")]
    given(definition, *history, before).when(wait_due(1)).then_nothing()


def test_a_skip_names_the_wait_that_ran_out_and_not_the_one_beside_it() -> None:
    both = {"all": ["shipped", {"event": "paid", "within": 5}, "a.completed"]}
    definition = define(task("a", "go"), task("b", both))
    history = [run_started(definition), scheduled("a"), started("a")]
    given(definition, *history).when(wait_due(2)).then(expired("paid", 2), skipped("b", "paid did not come in time"))


def test_a_failed_attempts_error_is_what_triggered_means() -> None:
    definition = define(task("a", "go"), task("b", "a.failed", inputs={"why": "{{event.payload.message}}"}))
    history = [run_started(definition), scheduled("a"), started("a")]
    given(definition, *history).when(fail("a")).then(failed("a", error=ERROR), scheduled("b", {"why": "no"}))


def test_latched_events_are_kept_with_their_payload() -> None:
    state = given(PAID, *UNDER_WAY).when(receive("paid", {"n": 1})).state
    assert state.latched[1].payload == Json.of({"n": 1})

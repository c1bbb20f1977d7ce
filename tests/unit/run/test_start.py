"""How a run starts, and who starts with it."""

from datetime import timedelta

import pytest

from perdure_engine.definitions.definition import Definition
from perdure_engine.run import events as e
from perdure_eventstore.door import Json

from .given import (
    AT,
    GO,
    begin,
    completed,
    define,
    given,
    latched,
    ran,
    receive,
    run_completed,
    run_started,
    scheduled,
    skipped,
    start,
    started,
    task,
)

TWO_ENTRIES = define(task("a", "placed"), task("b", "resumed"), task("c", depends_on=["b"]))


def test_rule_8_a_start_is_recorded_with_what_it_holds_and_what_it_waits_for() -> None:
    definition = define(
        task("a", "go"),
        task("b", {"all": ["a.completed", {"event": "paid", "within": "1m"}]}),
        task("c", {"all": ["a.completed", "shipped"]}),
        deadline="1h",
        key="{{event.payload.id}}",
    )
    given(definition).when(start("go", {"id": 7}, key="7")).then(
        e.RunStarted(
            workflow_id="w",
            digest=definition.digest,
            event="go",
            event_id=GO,
            key="7",
            keyed=True,
            latched=(0,),
            waits=(e.WaitArmed(1, "paid", AT + timedelta(minutes=1)), e.WaitArmed(2, "shipped")),
            deadline=AT + timedelta(hours=1),
            input=Json.of({"id": 7}),
        ),
        scheduled("a"),
    )


def test_rule_8_a_run_starts_once() -> None:
    definition = define(task("a", "go"))
    given(definition, run_started(definition), scheduled("a")).when(start()).then_nothing()


def test_rule_8_a_run_without_an_entry_starts_with_no_event() -> None:
    definition = define(task("a"))
    given(definition).when(start(None)).then(run_started(definition, None), scheduled("a"))


def test_rule_8_an_event_before_the_start_is_no_event_of_the_run() -> None:
    given(define(task("a", "go"))).when(receive("go")).then_nothing()


def test_rule_3_no_triggers_is_ready_at_the_runs_start_whatever_started_it() -> None:
    definition = define(task("a"), task("b", "go"))
    given(definition).when(start()).then(run_started(definition), scheduled("a"), scheduled("b"))


@pytest.mark.parametrize(("event", "ready"), [("placed", "a"), ("resumed", "b")])
def test_rule_4_the_entry_that_came_makes_its_roots_ready(event: str, ready: str) -> None:
    assert scheduled(ready) in given(TWO_ENTRIES).when(start(event)).events


def test_rule_4_roots_of_the_entries_that_did_not_come_are_skipped_not_triggered_by_them() -> None:
    given(TWO_ENTRIES).when(start("placed")).then(
        run_started(TWO_ENTRIES, "placed"),
        scheduled("a"),
        skipped("b", "not triggered by resumed"),
        skipped("c", "b was skipped, not completed"),
    )


def test_rule_4_an_entry_whose_where_is_false_did_not_come() -> None:
    definition = define(task("a", {"event": "go", "where": "event.payload.n > 1"}), task("b"))
    given(definition).when(start("go", {"n": 1})).then(
        run_started(definition, "go", {"n": 1}, latched=()), skipped("a", "not triggered by go"), scheduled("b")
    )


def test_rule_4_every_entry_of_a_task_that_did_not_come_is_named() -> None:
    definition = define(task("a", "placed", "resumed"), task("b", "go"))
    events = given(definition).when(start()).events
    assert skipped("a", "not triggered by placed; not triggered by resumed") in events


def test_rule_4_events_the_start_list_leaves_out_are_waited_for() -> None:
    definition = define(task("a", "go"), task("b", "paid"), start=["go"])
    given(definition).when(start()).then(run_started(definition), scheduled("a"))
    history = [run_started(definition), *ran("a")]
    given(definition, *history).when(receive("paid")).then(latched("paid", 1), scheduled("b"))


def test_rule_4_an_entry_can_be_waited_for_beside_what_a_wait_lacks() -> None:
    definition = define(task("a", {"all": ["go", "paid"]}), start=["go"])
    given(definition).when(start()).then(run_started(definition))
    given(definition, run_started(definition)).when(receive("paid")).then(latched("paid", 1), scheduled("a"))


def entry_here_and_wait_there() -> Definition:
    """``again`` starts a run, and is waited for by a task of the runs that ``go`` starts."""
    return define(task("a", "go"), task("b", "again"), task("c", {"all": ["a.completed", "again"]}))


def test_rule_6_an_entry_in_a_root_is_a_wait_where_a_task_waits_for_it() -> None:
    definition = entry_here_and_wait_there()
    given(definition).when(start("go")).then(
        run_started(definition, "go", latched=(0,), waits=(e.WaitArmed(2, "again"),)),
        scheduled("a"),
        skipped("b", "not triggered by again"),
    )
    history = [run_started(definition, "go"), *ran("a"), skipped("b", "not triggered by again")]
    given(definition, *history).when(receive("again")).then(latched("again", 2), scheduled("c"))


def test_rule_6_the_starting_event_latches_waits_too() -> None:
    definition = entry_here_and_wait_there()
    given(definition).when(start("again")).then(
        run_started(definition, "again", latched=(1, 2), waits=()),
        skipped("a", "not triggered by go"),
        scheduled("b"),
        skipped("c", "a was skipped, not completed"),
    )


def test_rule_6_a_wait_whose_where_the_starting_event_does_not_meet_is_still_armed() -> None:
    definition = define(
        task("a", "go"), task("b", {"all": ["a.completed", {"event": "go", "where": "event.payload.n == 2"}]})
    )
    armed = (e.WaitArmed(1, "go"),)
    given(definition).when(start("go", {"n": 1})).then(
        run_started(definition, "go", {"n": 1}, latched=(0,), waits=armed), scheduled("a")
    )


def test_who_starts_with_the_run_starts_in_the_order_of_the_document() -> None:
    """Not in the order of a hash table: the same command decided by two processes is the same events."""
    names = [f"t{number}" for number in range(40)]
    waiting = [task(f"w{number}", "other") for number in range(40)]
    definition = define(*waiting, *(task(name, "go", "w0.completed") for name in names))
    events = given(definition).when(start()).events
    assert [event.task_id for event in events if isinstance(event, e.TaskScheduled)] == names
    assert [event.task_id for event in events if isinstance(event, e.TaskSkipped)] == [f"w{n}" for n in range(40)]


def test_a_task_starts_on_the_node_that_has_a_slot_and_completes() -> None:
    definition = define(task("a", "go"))
    history = [run_started(definition), scheduled("a")]
    begun = given(definition, *history).when(begin("a")).then(started("a"))
    assert begun.status_of("a") == "started"
    ended = given(definition, *history, started("a"), completed("a", 1), run_completed())
    assert ended.state.is_ended
    assert ended.status_of("a") == "completed"

"""The definition language: rules 1 to 11, 15, 23 and 24, each with what it accepts and what it refuses."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from perdure_engine.definitions.compile import compile_definition
from perdure_engine.definitions.definition import Clause, Definition, Dependent, EndDependent, Retry, TaskEnd
from perdure_engine.faults import DefinitionRefused

EXAMPLE = Path(__file__).parents[2] / "examples" / "user_registration.json"

SEED = {
    "workflow_id": "user_registration",
    "tasks": [
        {
            "task_id": "send_welcome_email",
            "type": "email",
            "inputs": {"email": "{{user_email}}"},
            "triggers": ["user_registered"],
        },
        {
            "task_id": "create_user_profile",
            "type": "database",
            "inputs": {"user_data": "{{user_data}}"},
            "triggers": ["user_registered"],
        },
    ],
}


def task(task_id: str, *triggers: Any, **more: Any) -> dict[str, Any]:
    """A task with triggers, or without the key if only ``depends_on`` is given."""
    written: dict[str, Any] = {"task_id": task_id, "type": "noop", **more}
    if triggers or "depends_on" not in more:
        written["triggers"] = list(triggers)
    return written


def workflow(*tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"workflow_id": "w", "tasks": list(tasks), **more}


def compiled(*tasks: dict[str, Any], **more: Any) -> Definition:
    return compile_definition(workflow(*tasks, **more), known_types={"noop": {}})


def faults(*tasks: dict[str, Any], **more: Any) -> dict[str, str]:
    """What refuses the definition: pointer to sentence."""
    with pytest.raises(DefinitionRefused) as refused:
        compiled(*tasks, **more)
    return {fault.pointer: fault.message for fault in refused.value.faults}


def warnings(*tasks: dict[str, Any], **more: Any) -> dict[str, str]:
    return {fault.pointer: fault.message for fault in compiled(*tasks, **more).warnings}


# The seed


def test_the_seeds_example_is_accepted_word_for_word() -> None:
    assert json.loads(EXAMPLE.read_text()) == SEED
    definition = compile_definition(SEED, known_types={"email": {}, "database": {}})
    assert definition.workflow_id == "user_registration"
    assert definition.entries == {"user_registered"}
    assert definition.roots == ("send_welcome_email", "create_user_profile")
    assert definition.tasks["send_welcome_email"].inputs.references == {("input", "user_email")}
    assert definition.warnings == ()


def test_a_definition_of_10_000_tasks_compiles_in_seconds() -> None:
    """Linear: quadratic work would take minutes. The bound leaves room for a busy machine."""
    chain = [task("t0", "go")]
    chain += [
        task(f"t{n}", depends_on=[f"t{n - 1}"], inputs={"a": f"{{{{tasks.t{n // 2}}}}}"}) for n in range(1, 10_000)
    ]
    begun = time.perf_counter()
    compiled(*chain)
    assert time.perf_counter() - begun < 10


# Rule 1


@pytest.mark.parametrize("task_id", ["a", "_", "Send-mail_2", "x" * 128])
def test_rule_01_task_ids_match_the_pattern(task_id: str) -> None:
    assert list(compiled(task(task_id, "go")).tasks) == [task_id]


@pytest.mark.parametrize("task_id", ["", " ", "1a", "a.b", "a b", "é", "a\n", "x" * 129, 7, None])
def test_rule_01_other_task_ids_are_refused(task_id: Any) -> None:
    assert list(faults(task(task_id, "go"))) == ["/tasks/0/task_id"]


def test_rule_01_task_ids_are_unique() -> None:
    assert faults(task("a", "go"), task("a", "go")) == {"/tasks/1/task_id": "the task id `a` is taken by /tasks/0"}


@pytest.mark.parametrize("workflow_id", ["", "a b", "1", "x" * 129, 3])
def test_rule_01_workflow_ids_match_their_pattern(workflow_id: Any) -> None:
    assert list(faults(task("a", "go"), workflow_id=workflow_id)) == ["/workflow_id"]
    assert compiled(task("a", "go"), workflow_id="shop.orders-v2").workflow_id == "shop.orders-v2"


def test_rule_01_unknown_keys_are_refused_with_the_nearest_known_one() -> None:
    found = faults(
        task("a", "go", input={}, trigers=[], needs=["b"], retry={"atempts": 2}),
        task("b", {"event": "x", "were": "true"}),
        deadlin=3,
    )
    assert "`inputs`" in found["/tasks/0/input"]
    assert "`triggers`" in found["/tasks/0/trigers"]
    assert "`depends_on`" in found["/tasks/0/needs"]
    assert found["/tasks/0/retry/atempts"].endswith("did you mean `attempts`?")
    assert "`where`" in found["/tasks/1/triggers/0/were"]
    assert "`deadline`" in found["/deadlin"]


def test_rule_01_keys_that_begin_with_x_are_free() -> None:
    more = {"x-team": "billing", "x-": None}
    definition = compiled(
        task("a", {"event": "go", **more}, retry={"attempts": 2, **more}, **more), defaults={**more}, **more
    )
    assert b'"x-team":"billing"' in definition.document


@pytest.mark.parametrize("key", ["for_each", "compensate", "emit", "workflow", "approval", "tolerate"])
def test_rule_01_keys_of_a_later_release_say_so(key: str) -> None:
    assert faults(task("a", "go", **{key: 1})) == {f"/tasks/0/{key}": f"`{key}` is not supported yet"}


def test_rule_01_all_faults_are_given_at_once_in_document_order() -> None:
    stray = {"x": "{{tasks.b.output}}"}
    document = workflow(task("a", "go", inputs=stray, retry=0, timeout="x"), task("b", "c.done"), fail_fast=1, oops=2)
    del document["workflow_id"]
    with pytest.raises(DefinitionRefused) as refused:
        compile_definition(document)
    assert [fault.pointer for fault in refused.value.faults] == [
        "",
        "/tasks/0/inputs/x",
        "/tasks/0/retry",
        "/tasks/0/timeout",
        "/tasks/1/triggers/0",
        "/fail_fast",
        "/oops",
    ]


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_rule_01_a_definition_is_an_object(document: Any) -> None:
    with pytest.raises(DefinitionRefused, match="a definition is an object"):
        compile_definition(document)


@pytest.mark.parametrize(
    ("key", "value"),
    [("tasks", []), ("tasks", {}), ("tasks", None), ("start", "go"), ("start", [1]), ("key", 3), ("fail_fast", "no")],
)
def test_rule_01_a_value_of_a_wrong_type_is_refused(key: str, value: Any) -> None:
    assert all(pointer.startswith(f"/{key}") for pointer in faults(task("a", "go"), **{key: value}))


# Rule 2


@pytest.mark.parametrize("on", ["completed", "failed", "skipped", "done", "ended"])
def test_rule_02_t_dot_end_is_always_task_t(on: Any) -> None:
    definition = compiled(task("a", "go"), task("b", f"a.{on}"))
    assert definition.tasks["b"].clauses == (Clause((TaskEnd("a", on),)),)
    assert definition.end_dependents == {"a": (EndDependent("b", 0, on),)}


def test_rule_02_an_unknown_task_is_refused_with_near_names() -> None:
    found = faults(task("charge", "go"), task("b", "chrage.completed"))
    assert "did you mean `charge`?" in found["/tasks/1/triggers/0"]
    assert '{"event": "chrage.completed"}' in found["/tasks/1/triggers/0"]


def test_rule_02_a_task_cannot_wait_for_itself() -> None:
    found = faults(task("a", "go", "a.failed"), task("b", depends_on=["b"]))
    assert list(found) == ["/tasks/0/triggers/1", "/tasks/1/depends_on/0"]


def test_rule_02_an_outside_event_may_be_named_like_a_tasks_end() -> None:
    definition = compiled(task("payment", "go"), task("b", {"event": "payment.completed"}))
    assert definition.entries == {"go", "payment.completed"}


def test_rule_02_other_strings_are_event_names() -> None:
    names = ["order.placed", "data ready", "completed", "ä/é", "T.complete", "x" * 256]
    assert compiled(task("a", *names)).entries == set(names)


@pytest.mark.parametrize("name", ["", "a\nb", "\x7f", "x" * 257])
def test_rule_02_event_names_are_short_text_without_control_characters(name: str) -> None:
    assert list(faults(task("a", name))) == ["/tasks/0/triggers/0"]
    assert list(faults(task("a", {"event": name}))) == ["/tasks/0/triggers/0/event"]


def test_rule_02_bare_task_completed_is_the_first_completion_of_any_other_task_with_a_warning() -> None:
    definition = compiled(task("a", "go"), task("b", "task_completed"))
    assert definition.tasks["b"].clauses == (Clause((TaskEnd(None, "completed"),)),)
    assert definition.any_completion == (Dependent("b", 0),)
    assert definition.roots == ("a",)
    assert "which one is meant?" in definition.warnings[0].message


def test_rule_02_task_completed_with_where_is_an_event_trigger_that_starts_nothing() -> None:
    definition = compiled(
        task("a", "go"), task("b", {"event": "task_completed", "where": "event.payload.task_id == 'a'"})
    )
    assert definition.events[1].name == "task_completed"
    assert definition.entries == {"go"}
    assert definition.roots == ("a",)


@pytest.mark.parametrize("name", ["task_failed", "run_completed", "run_started"])
def test_rule_02_the_engines_own_event_names_are_refused(name: str) -> None:
    found = faults(task("a", "go"), task("b", name), task("c", {"event": name}))
    assert list(found) == ["/tasks/1/triggers/0", "/tasks/2/triggers/0/event"]


@pytest.mark.parametrize(
    ("trigger", "likely"), [("a", "a.completed"), ("a.succeeded", "a.completed"), ("a.failure", "a.failed")]
)
def test_rule_02_an_event_that_looks_like_a_task_warns(trigger: str, likely: str) -> None:
    assert f"`{likely}`" in warnings(task("a", "go"), task("b", trigger), deadline=9)["/tasks/1/triggers/0"]


@pytest.mark.parametrize("trigger", [None, 3, [], {}, {"event": 3}, {"all": []}, {"all": "go"}, {"any": ["go"]}])
def test_rule_02_anything_else_is_no_trigger(trigger: Any) -> None:
    assert all(pointer.startswith("/tasks/0/triggers/0") for pointer in faults(task("a", trigger)))


# Rule 3


def test_rule_03_a_list_of_triggers_is_any_of_them() -> None:
    definition = compiled(task("a", "x", "y"))
    assert definition.tasks["a"].clauses == (Clause((), (0,)), Clause((), (1,)))
    assert definition.event_dependents == ((Dependent("a", 0),), (Dependent("a", 1),))


def test_rule_03_all_is_all_of_them() -> None:
    definition = compiled(
        task("a", "go"), task("b", {"all": ["a.completed", "paid", {"event": "sent", "within": "1h"}]})
    )
    assert definition.tasks["b"].clauses == (Clause((TaskEnd("a", "completed"),), (1, 2)),)
    assert definition.tasks["b"].clauses[0].size == 3


def test_rule_03_depends_on_is_all_completed_and_joins_triggers_with_and() -> None:
    definition = compiled(task("a", "go"), task("b", "go"), task("c", "x", "y", depends_on=["a", "b"]))
    ends = (TaskEnd("a", "completed"), TaskEnd("b", "completed"))
    assert [clause.ends for clause in definition.tasks["c"].clauses] == [ends, ends]
    assert [len(clause.events) for clause in definition.tasks["c"].clauses] == [1, 1]


def test_rule_03_depends_on_alone_is_one_clause() -> None:
    ends = (TaskEnd("a", "completed"),)
    assert compiled(task("a", "go"), task("b", depends_on=["a", "a"])).tasks["b"].clauses == (Clause(ends),)


def test_rule_03_empty_triggers_beside_depends_on_add_nothing() -> None:
    definition = compiled(task("a", "go"), {**task("b", depends_on=["a"]), "triggers": []})
    assert definition.tasks["b"].clauses == (Clause((TaskEnd("a", "completed"),)),)


def test_rule_03_empty_triggers_alone_are_ready_at_the_runs_start() -> None:
    definition = compiled(task("a"))
    assert definition.tasks["a"].clauses == (Clause(),)
    assert definition.roots == ("a",)


def test_rule_03_triggers_may_be_left_out_only_beside_depends_on() -> None:
    assert "`triggers` is missing" in faults(task("a", "go"), {"task_id": "b", "type": "noop"})["/tasks/1"]


def test_rule_03_what_is_said_twice_counts_once() -> None:
    definition = compiled(task("a", "go", "go"), task("b", {"all": ["a.done", "a.done", "go", "go"]}, depends_on=["a"]))
    assert definition.tasks["a"].clauses == (Clause((), (0,)),)
    assert definition.tasks["b"].clauses[0].size == 3


def test_rule_03_all_holds_no_other_all() -> None:
    assert list(faults(task("a", {"all": ["go", {"all": ["x"]}]}))) == ["/tasks/0/triggers/0/all/1"]
    assert list(faults(task("a", {"all": ["go"], "within": 3}))) == ["/tasks/0/triggers/0/within"]


def test_rule_03_cycles_are_refused_by_name() -> None:
    found = faults(
        task("go", "go"), task("a", "c.ended"), task("b", "a.done"), task("c", depends_on=["b"]), task("d", "a.done")
    )
    assert found == {
        "/tasks/1/triggers/0": "these tasks wait for each other, so none can ever start: `a` -> `b` -> `c` -> `a`"
    }


def test_rule_03_each_cycle_is_named_once() -> None:
    found = faults(task("go", "go"), *(task(f"t{n}", "go", f"t{n ^ 1}.done") for n in range(6)))
    assert list(found) == ["/tasks/1/triggers/1", "/tasks/3/triggers/1", "/tasks/5/triggers/1"]


@pytest.mark.parametrize(
    "together",
    [
        {"all": ["x.completed", "x.failed"]},
        {"all": ["x.completed", "x.skipped"]},
        {"all": ["x.done", "x.failed"]},
        {"all": ["x.failed", "x.skipped"]},
    ],
)
def test_rule_03_ends_that_exclude_each_other_cannot_be_joined(together: Any) -> None:
    found = faults(task("x", "go"), task("a", "x.completed", together))
    assert "`x` ends once" in found["/tasks/1/triggers/1"]


@pytest.mark.parametrize("on", ["failed", "skipped"])
def test_rule_03_depends_on_excludes_the_tasks_other_ends(on: str) -> None:
    assert list(faults(task("x", "go"), task("a", f"x.{on}", depends_on=["x"]))) == ["/tasks/1/triggers/0"]


@pytest.mark.parametrize("ends", [["x.done", "x.skipped"], ["x.ended", "x.failed"], ["x.completed", "x.done"]])
def test_rule_03_ends_that_agree_can_be_joined(ends: list[str]) -> None:
    assert compiled(task("x", "go"), task("a", {"all": ends}))


def test_rule_03_branches_that_exclude_each_other_cannot_be_joined_as_completed() -> None:
    branches = [task("x", "go"), task("a", "x.completed"), task("b", "x.failed"), task("b2", depends_on=["b"])]
    found = faults(*branches, task("join", depends_on=["a", "b2"]))
    assert "`a.completed` needs `x` completed, `b2.completed` needs `x` failed" in found["/tasks/4/depends_on"]
    assert ".done" in found["/tasks/4/depends_on"]
    assert compiled(*branches, task("join", {"all": ["a.done", "b2.done"]}))


def test_rule_03_a_branch_with_another_way_in_can_be_joined() -> None:
    branches = [task("x", "go"), task("y", "go"), task("a", "x.completed"), task("b", "x.failed", "y.completed")]
    assert compiled(*branches, task("join", depends_on=["a", "b"]))


def test_rule_03_an_impossible_join_is_said_once_and_not_of_what_follows() -> None:
    found = faults(task("x", "go"), task("a", {"all": ["x.completed", "x.failed"]}), task("b", depends_on=["a"]))
    assert list(found) == ["/tasks/1/triggers/0"]


# Rule 4


def test_rule_04_roots_have_no_task_end_trigger() -> None:
    definition = compiled(task("a", "go"), task("b"), task("c", "go", "a.done"), task("d", depends_on=["a"]))
    assert definition.roots == ("a", "b")


def test_rule_04_entries_are_the_events_that_alone_make_a_root_ready() -> None:
    definition = compiled(task("a", "x", {"all": ["y", "z"]}), task("b", "w", "a.done"), deadline="1d")
    assert definition.entries == {"x"}
    assert {event.name: event.entry for event in definition.events} == {"x": True, "y": False, "z": False, "w": False}


def test_rule_04_the_start_list_makes_the_other_events_waits() -> None:
    definition = compiled(task("a", "x"), task("b", "y"), start=["x"], deadline="1d")
    assert definition.entries == {"x"}
    assert [event.entry for event in definition.events] == [True, False]


def test_rule_04_one_name_is_an_entry_in_a_root_and_a_wait_elsewhere() -> None:
    definition = compiled(task("a", "go"), task("b", {"all": ["a.done", "go"]}), task("c", "go"))
    assert [(event.name, event.entry) for event in definition.events] == [("go", True), ("go", False)]
    assert definition.listeners == {"go": (0, 1)}
    assert definition.event_dependents == ((Dependent("a", 0), Dependent("c", 0)), (Dependent("b", 0),))


def test_rule_04_event_triggers_are_one_if_name_where_and_within_are() -> None:
    small, large = {"event": "go", "where": "input.n < 9"}, {"event": "go", "where": "input.n >= 9"}
    definition = compiled(task("a", small), task("b", large), task("c", small), task("d", "go"))
    assert len(definition.events) == 3
    assert [event.index for event in definition.events] == [0, 1, 2]


def test_rule_04_a_definition_with_no_entry_and_no_task_ready_at_the_start_is_refused() -> None:
    assert "nothing can start a run" in faults(task("a", {"all": ["x", "y"]}))["/tasks"]
    assert "nothing can start a run" in faults(task("a", "x"), start=[])["/tasks"]
    assert compiled(task("a", "x"), task("b"), start=[], deadline=9).entries == frozenset()


def test_rule_04_start_names_events_that_roots_listen_for() -> None:
    found = faults(task("a", "order_placed"), task("b", "paid", "a.done"), start=["order_placd", "paid", "run_started"])
    assert "`order_placed`" in found["/start/0"]
    assert list(found) == ["/start/0", "/start/1", "/start/2"]


def test_rule_04_two_events_that_each_start_a_run_cannot_be_joined() -> None:
    branches = [task("a", "ordered"), task("b", "paid")]
    found = faults(*branches, task("ship", depends_on=["a", "b"]))
    assert "one event starts a run" in found["/tasks/2/depends_on"]
    assert compiled(*branches, task("ship", depends_on=["a", "b"]), start=["ordered"], deadline=9)


def test_rule_04_two_entries_can_be_waited_for_where_they_are_waits() -> None:
    definition = compiled(task("a", "x", "y"), task("b", {"all": ["a.done", "x", "y"]}), deadline=9)
    assert [(event.name, event.entry) for event in definition.events] == [
        ("x", True),
        ("y", True),
        ("x", False),
        ("y", False),
    ]


def test_rule_04_all_of_two_listed_entries_can_never_hold() -> None:
    tasks = [task("a", "x"), task("b", {"all": ["x", "y"]})]
    assert list(faults(*tasks, start=["x", "y"])) == ["/tasks/1/triggers/0"]
    assert compiled(*tasks, start=["x"], deadline=9)


# Rules 6, 9, 11, 12


def test_rule_06_a_trigger_keeps_its_condition_and_its_limit() -> None:
    definition = compiled(
        task("a", "go"), task("b", {"event": "paid", "where": "event.payload.n > 1", "within": "2h"}), start=["go"]
    )
    paid = definition.events[1]
    assert (paid.name, paid.within, paid.where and paid.where.text) == ("paid", 7200, "event.payload.n > 1")


def test_rule_09_a_wait_with_no_deadline_warns() -> None:
    tasks = [task("a", "go"), task("b", {"all": ["a.done", "paid"]}, {"all": ["a.failed", "paid"]})]
    assert list(warnings(*tasks)) == ["/tasks/1/triggers/0/all/1"]
    assert "for ever" in warnings(*tasks)["/tasks/1/triggers/0/all/1"]
    assert warnings(*tasks, deadline="1d") == {}
    assert warnings(task("a", "go"), task("b", {"all": ["a.done", {"event": "paid", "within": 9}]})) == {}


def test_rule_09_the_one_starting_event_is_no_wait() -> None:
    assert warnings(task("a", "go"), task("b", {"all": ["a.done", "go"]})) == {}
    assert warnings(task("a", "go"), task("c", "x"), task("b", {"all": ["a.done", "go"]})) != {}


def test_rule_09_a_limit_on_a_starting_event_warns() -> None:
    assert "limits nothing" in warnings(task("a", {"event": "go", "within": 9}))["/tasks/0/triggers/0"]


def test_rule_11_a_task_handles_the_failures_that_trigger_it() -> None:
    definition = compiled(
        task("a", "go"), task("b", "go"), task("c", "a.failed", {"all": ["b.failed", "a.ended"]}, "b.done")
    )
    assert definition.tasks["c"].handles == {"a", "b"}


def test_rule_11_on_failure_continue_counts_as_done() -> None:
    definition = compiled(task("a", "go", on_failure="continue"), task("b", {"all": ["a.done", "a.failed"]}))
    assert definition.tasks["a"].proceed_on_failure
    assert not definition.tasks["b"].proceed_on_failure
    assert list(faults(task("a", "go", on_failure="ignore"))) == ["/tasks/0/on_failure"]


def test_rule_12_fail_fast_and_deadline_are_kept() -> None:
    definition = compiled(task("a", "go"), fail_fast=True, deadline="15m")
    assert (definition.fail_fast, definition.deadline) == (True, 900)
    assert (compiled(task("a", "go")).fail_fast, compiled(task("a", "go")).deadline) == (False, None)


# Rule 15


@pytest.mark.parametrize(
    ("written", "policy"),
    [
        (5, Retry(attempts=5)),
        (1, Retry(attempts=1)),
        (False, Retry(attempts=1)),
        ({}, Retry()),
        (
            {"attempts": 9, "initial": "500ms", "multiplier": 3, "maximum": "2m", "jitter": 0},
            Retry(attempts=9, initial=0.5, multiplier=3.0, maximum=120.0, jitter=0.0),
        ),
        ({"initial": "10m"}, Retry(initial=600.0, maximum=600.0)),
    ],
)
def test_rule_15_a_retry_policy_is_an_object_a_number_or_false(written: Any, policy: Retry) -> None:
    assert compiled(task("a", "go", retry=written)).tasks["a"].retry == policy


@pytest.mark.parametrize(
    ("written", "where"),
    [
        (0, ""),
        (-1, ""),
        (True, ""),
        ("5", ""),
        (None, ""),
        (2.5, ""),
        ({"attempts": 0}, "/attempts"),
        ({"attempts": True}, "/attempts"),
        ({"initial": "soon"}, "/initial"),
        ({"multiplier": 0.5}, "/multiplier"),
        ({"initial": 10, "maximum": 5}, "/maximum"),
    ],
)
def test_rule_15_other_policies_are_refused(written: Any, where: str) -> None:
    assert list(faults(task("a", "go", retry=written))) == [f"/tasks/0/retry{where}"]


def test_rule_15_a_tasks_policy_beats_the_definitions_defaults_as_a_whole() -> None:
    defaults = {"retry": {"attempts": 9, "initial": 5}, "timeout": "1m", "on_failure": "continue"}
    own = {"retry": {"attempts": 2}, "timeout": 7, "on_failure": "fail"}
    tasks = compiled(task("a", "go"), task("b", "go", **own), defaults=defaults).tasks
    assert (tasks["a"].retry, tasks["a"].timeout, tasks["a"].proceed_on_failure) == (Retry(9, 5.0), 60, True)
    assert (tasks["b"].retry, tasks["b"].timeout, tasks["b"].proceed_on_failure) == (Retry(2), 7, False)
    bare = compiled(task("a", "go")).tasks["a"]
    assert (bare.retry, bare.timeout) == (None, None)


# Rule 23

EMAIL = {
    "type": "object",
    "properties": {
        "to": {"type": "string"},
        "copies": {"type": "integer"},
        "user": {"$ref": "#/$defs/User"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "mode": {"enum": ["html", "text"]},
        "after": {"anyOf": [{"type": "number"}, {"type": "null"}]},
    },
    "required": ["to", "user"],
    "additionalProperties": False,
    "$defs": {"User": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
}


def typed_faults(inputs: dict[str, Any]) -> list[str]:
    try:
        compile_definition(workflow(task("a", "go", inputs=inputs)), known_types={"noop": EMAIL})
    except DefinitionRefused as refused:
        return [fault.pointer for fault in refused.faults]
    return []


def test_rule_23_unknown_types_are_refused_with_near_names() -> None:
    document = workflow(task("a", "go", type="emial"))
    with pytest.raises(DefinitionRefused, match="did you mean `email`") as refused:
        compile_definition(document, known_types={"email": {}})
    assert refused.value.faults[0].pointer == "/tasks/0/type"
    allowed = compile_definition(document, known_types={"email": {}}, allow_unknown_types=True)
    assert [fault.pointer for fault in allowed.warnings] == ["/tasks/0/type"]


def test_rule_23_offline_each_type_warns_once() -> None:
    definition = compile_definition(workflow(task("a", "go"), task("b", "go"), task("c", "go", type="x")))
    assert [fault.pointer for fault in definition.warnings] == ["/tasks/0/type", "/tasks/2/type"]


@pytest.mark.parametrize(
    "inputs",
    [
        {"to": "x", "user": {"name": "n"}},
        {"to": "{{to}}", "user": "{{user}}", "copies": "{{n}}", "mode": "{{m}}"},
        {"to": "x", "user": {"name": "n"}, "copies": "5", "tags": ["a"], "mode": "text", "after": None},
        {"to": {"$literal": "{{x}}"}, "user": {"$literal": {"name": "n"}}},
    ],
)
def test_rule_23_inputs_that_may_fit_pass(inputs: dict[str, Any]) -> None:
    assert typed_faults(inputs) == []


@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({"cc": 1}, "/tasks/0/inputs/cc"),
        ({"user": {}}, "/tasks/0/inputs/user"),
        ({"user": {"$literal": []}}, "/tasks/0/inputs/user/$literal"),
        ({"to": 5}, "/tasks/0/inputs/to"),
        ({"copies": "many"}, "/tasks/0/inputs/copies"),
        ({"tags": "a"}, "/tasks/0/inputs/tags"),
        ({"tags": ["a", {}]}, "/tasks/0/inputs/tags/1"),
        ({"mode": "rtf"}, "/tasks/0/inputs/mode"),
        ({"after": {}}, "/tasks/0/inputs/after"),
    ],
)
def test_rule_23_inputs_that_cannot_fit_the_type_are_refused(more: dict[str, Any], pointer: str) -> None:
    assert typed_faults({"to": "x", "user": {"name": "n"}, **more}) == [pointer]


def test_rule_23_required_inputs_must_be_there() -> None:
    assert typed_faults({}) == ["/tasks/0", "/tasks/0"]
    assert typed_faults({"to": "x"}) == ["/tasks/0/inputs"]


# Rule 24


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(90, 90), (0.5, 0.5), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("500ms", 0.5), ("1.5h", 5400)],
)
def test_rule_24_durations_are_seconds_or_text_with_a_unit(written: Any, seconds: float) -> None:
    definition = compiled(task("a", "go", timeout=written), deadline=written)
    assert (definition.tasks["a"].timeout, definition.deadline) == (seconds, seconds)


@pytest.mark.parametrize(
    "written", [0, -1, "0s", "90", "1w", "1h30m", "", "-1s", True, None, [], 1e300, "9" * 400 + "s"]
)
def test_rule_24_other_durations_are_refused(written: Any) -> None:
    assert list(faults(task("a", "go", timeout=written))) == ["/tasks/0/timeout"]

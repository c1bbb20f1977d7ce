"""What templates of a definition may name (rules 7, 10, 14 and 16 to 18)."""

from typing import Any

import pytest

from perdure_engine.definitions.compile import compile_definition
from perdure_engine.faults import DefinitionRefused


def faults(*tasks: dict[str, Any], **more: Any) -> dict[str, str]:
    """What refuses the definition, pointer to sentence; nothing if it compiles."""
    document = {"workflow_id": "w", "tasks": [{"type": "noop", **task} for task in tasks], **more}
    try:
        compile_definition(document)
    except DefinitionRefused as refused:
        return {fault.pointer: fault.message for fault in refused.faults}
    return {}


GO = {"task_id": "a", "triggers": ["go"]}


def after(*depends_on: str, **more: Any) -> dict[str, Any]:
    return {"task_id": "b", "depends_on": list(depends_on), **more}


# Syntax and places


def test_rule_16_template_faults_have_the_pointer_of_their_text() -> None:
    found = faults(
        {**GO, "inputs": {"x": ["{{ok}}", "{{"], "y": "{{a b}}"}, "when": "1 +"}, key="{{", output={"z": "{{}}"}
    )
    assert list(found) == ["/tasks/0/inputs/x/1", "/tasks/0/inputs/y", "/tasks/0/when", "/key", "/output/z"]


def test_rule_16_literals_are_no_templates() -> None:
    assert faults({**GO, "inputs": {"x": {"$literal": "{{tasks.zzz.output}} {{"}}}) == {}


def test_rule_16_types_and_ids_are_no_templates() -> None:
    assert list(faults({"task_id": "{{a}}", "triggers": ["go"]})) == ["/tasks/0/task_id"]


def test_rule_10_when_is_an_expression_with_or_without_braces() -> None:
    for when in ("input.n > 1", "{{ input.n > 1 }}", "tasks.a.output.ok"):
        assert faults(GO, after("a", when=when)) == {}
    assert list(faults(GO, after("a", when="tasks.c.output"))) == ["/tasks/1/when"]
    assert list(faults(GO, after("a", when=True))) == ["/tasks/1/when"]


@pytest.mark.parametrize("root", ["tasks.a.output", "events['go']", "run.id", "secrets.s", "item", "index"])
def test_rule_18_key_and_where_know_the_event_alone(root: str) -> None:
    assert list(faults(GO, key=f"{{{{{root}}}}}")) == ["/key"]
    where = {"event": "go", "where": f"{root} == 1"}
    assert list(faults({"task_id": "a", "triggers": [where]})) == ["/tasks/0/triggers/0/where"]


def test_rule_18_key_and_where_may_use_the_event_and_its_payload() -> None:
    where = {"event": "go", "where": "event.payload.n == n && event.key != ''"}
    assert faults({"task_id": "a", "triggers": [where]}, key="{{event.payload.id}}/{{id}}") == {}


@pytest.mark.parametrize("root", ["item", "index"])
def test_rule_18_item_and_index_exist_only_inside_for_each(root: str) -> None:
    assert "for_each" in faults({**GO, "inputs": {"x": f"{{{{{root}}}}}"}})["/tasks/0/inputs/x"]


def test_rule_18_secrets_are_not_supported_yet() -> None:
    assert faults({**GO, "inputs": {"x": "{{secrets.token}}"}}) == {
        "/tasks/0/inputs/x": "`secrets` cannot be used in `inputs`: secrets are not supported yet"
    }


def test_rule_18_bare_names_are_fields_of_the_input_and_cannot_be_checked() -> None:
    assert faults({**GO, "inputs": {"x": "{{anything.at[0].all}}"}}) == {}


# Tasks


def test_rule_18_an_unknown_task_is_refused_with_near_names() -> None:
    found = faults({**GO, "task_id": "charge"}, after("charge", inputs={"x": ["{{tasks.chrage.output}}"]}))
    assert found == {"/tasks/1/inputs/x/0": "there is no task `chrage` here; did you mean `charge`?"}


@pytest.mark.parametrize("field", ["", ".output", ".output.a[0]", ".status", ".error"])
def test_rule_18_a_task_has_output_status_and_error(field: str) -> None:
    assert faults(GO, after("a", inputs={"x": f"{{{{tasks.a{field}}}}}"})) == {}


def test_rule_18_another_field_of_a_task_is_refused() -> None:
    found = faults(GO, after("a", inputs={"x": "{{tasks.a.id}}"}))
    assert "`tasks.a.output.id`" in found["/tasks/1/inputs/x"]


def test_rule_18_a_task_that_need_not_have_ended_is_refused() -> None:
    found = faults(GO, {"task_id": "b", "triggers": ["go"], "inputs": {"x": "{{tasks.a.output}}"}})
    assert "`a` need not have ended before `b`" in found["/tasks/1/inputs/x"]


def test_rule_18_a_task_cannot_read_its_own_outcome() -> None:
    assert "its own outcome" in faults({**GO, "inputs": {"x": "{{tasks.a.output}}"}})["/tasks/0/inputs/x"]


def test_rule_18_a_task_far_upstream_may_be_read() -> None:
    chain = [GO] + [{"task_id": f"t{n}", "depends_on": [f"t{n - 1}" if n else "a"]} for n in range(9)]
    assert faults(*chain, after("t8", inputs={"x": "{{tasks.a.output}} {{tasks.t0.status}}"})) == {}
    assert list(faults(*chain, after("t3", inputs={"x": "{{tasks.t4.output}}"}))) == ["/tasks/10/inputs/x"]


def test_rule_18_a_task_upstream_in_one_of_several_clauses_may_be_read() -> None:
    either = {"task_id": "b", "triggers": ["go", "a.done"], "inputs": {"x": "{{default(tasks.a.output, 1)}}"}}
    assert faults(GO, either) == {}


def test_rule_18_after_task_completed_any_task_may_have_ended() -> None:
    assert faults(GO, {"task_id": "b", "triggers": ["task_completed"], "inputs": {"x": "{{tasks.a.output}}"}}) == {}


def test_rule_14_output_may_use_any_task() -> None:
    assert faults(GO, after("a"), output={"x": "{{tasks.b.output}}", "y": "{{input}}"}) == {}
    assert "did you mean" in faults(GO, output="{{tasks.aa.output}}")["/output"]


@pytest.mark.parametrize("root", ["event", "events", "secrets", "item"])
def test_rule_14_output_belongs_to_no_one_task(root: str) -> None:
    assert list(faults(GO, output=[f"{{{{{root}.x}}}}"])) == ["/output/0"]


def test_rule_14_an_output_of_null_is_a_template_too() -> None:
    definition = compile_definition({"workflow_id": "w", "tasks": [{**GO, "type": "noop"}], "output": None})
    assert definition.output is not None


# Events and the key


def test_rule_18_events_are_those_the_tasks_triggers_name() -> None:
    both = {"task_id": "b", "triggers": [{"all": ["a.done", "paid"]}, "shipped"]}
    assert faults(GO, {**both, "inputs": {"x": "{{events['paid'].payload}} {{events.shipped.id}}"}}, deadline=9) == {}
    found = faults(GO, {**both, "inputs": {"x": "{{events['piad'].payload}}", "y": "{{events.go}}"}})
    assert "did you mean `paid`?" in found["/tasks/1/inputs/x"]
    assert list(found) == ["/tasks/1/inputs/x", "/tasks/1/inputs/y"]


def test_rule_07_a_key_without_a_template_warns() -> None:
    document = {"workflow_id": "w", "tasks": [{**GO, "type": "noop"}]}
    constant = compile_definition({**document, "key": "order_id"}, known_types={"noop": {}})
    assert [fault.pointer for fault in constant.warnings] == ["/key"]
    assert compile_definition({**document, "key": "{{order_id}}"}, known_types={"noop": {}}).warnings == ()


def test_references_are_not_judged_where_a_trigger_could_not_be_read() -> None:
    unclear = {"task_id": "b", "triggers": ["c.done"], "inputs": {"x": "{{tasks.a.output}} {{events.go}}"}}
    assert list(faults(GO, unclear)) == ["/tasks/1/triggers/0"]

"""The published JSON Schema, and the compiler against every document of the seed's shape."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure_engine.definitions.compile import compile_definition
from perdure_engine.definitions.keys import NOT_YET
from perdure_engine.definitions.schema import definition_schema
from perdure_engine.faults import DefinitionRefused

SEED_SCHEMA: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "workflow_id": {"type": "string"},
        "tasks": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "task_id": {"type": "string"},
                    "type": {"type": "string"},
                    "inputs": {"type": "object"},
                    "triggers": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["task_id", "type", "triggers"],
            },
        },
    },
    "required": ["workflow_id", "tasks"],
}

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def fits(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """The part of JSON Schema draft-07 the two schemas use."""
    if "$ref" in schema:
        return fits(value, root["definitions"][schema["$ref"].removeprefix("#/definitions/")], root)
    if not all(fits(value, each, root) for each in schema.get("allOf", [])):
        return False
    for branches in ("anyOf", "oneOf"):
        if branches in schema and not any(fits(value, each, root) for each in schema[branches]):
            return False
    if ("enum" in schema and value not in schema["enum"]) or ("const" in schema and value is not schema["const"]):
        return False
    if "type" in schema and not _is(value, schema["type"]):
        return False
    if isinstance(value, str):
        long = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        return long and re.search(schema.get("pattern", ""), value) is not None
    if isinstance(value, list):
        return len(value) >= schema.get("minItems", 0) and all(
            fits(each, schema.get("items", {}), root) for each in value
        )
    if isinstance(value, dict):
        return _object_fits(value, schema, root)
    return not isinstance(value, int | float) or "minimum" not in schema or value >= schema["minimum"]


def _is(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _object_fits(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any]) -> bool:
    properties = schema.get("properties", {})
    free = schema.get("patternProperties", {})
    for key, each in value.items():
        known = key in properties or any(re.search(pattern, key) for pattern in free)
        if not known and not schema.get("additionalProperties", True):
            return False
        if not fits(each, properties.get(key, {}), root):
            return False
    return all(key in value for key in schema.get("required", []))


def accepted(document: Any) -> bool:
    schema = definition_schema()
    return fits(document, schema, schema)


# Documents of the seed's shape: any text anywhere, and often text that makes sense

NAMES = st.sampled_from(["a", "b", "c", "send-mail"])
ENDS = st.builds("{}.{}".format, NAMES, st.sampled_from(["completed", "failed", "skipped", "done", "ended", "other"]))
TRIGGERS = ENDS | st.sampled_from(["go", "stop", "task_completed", "task_failed", ""]) | st.text(max_size=5)
TEMPLATES = st.builds(
    "{}{{{{{}}}}}".format,
    st.sampled_from(["", "x "]),
    st.sampled_from(["user", "tasks.a.output", "tasks.b.error", "tasks.zz", "events['go'].id", "item", "1 +", "", "{"]),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | TEMPLATES
INPUTS = st.dictionaries(
    st.text(max_size=5), st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=4), max_size=3
)
TASKS = st.fixed_dictionaries(
    {
        "task_id": NAMES | st.text(max_size=5),
        "type": st.sampled_from(["email", "database", ""]),
        "triggers": st.lists(TRIGGERS, max_size=3),
    },
    optional={"inputs": INPUTS},
)
DOCUMENTS = st.fixed_dictionaries(
    {"workflow_id": st.sampled_from(["w", "a b", ""]) | st.text(max_size=5), "tasks": st.lists(TASKS, max_size=5)}
)


def points_into(document: Any, pointer: str) -> bool:
    here = document
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        try:
            here = here[int(name)] if isinstance(here, list) else here[name]
        except (KeyError, IndexError, ValueError, TypeError):
            return "\\u" in name  # a key that cannot be printed is pointed to by its escape
    return True


def check_compiles_or_says_why(document: Any) -> None:
    try:
        definition = compile_definition(document)
        said = definition.warnings
        assert json.loads(definition.document) == document
        assert list(definition.tasks) == [task["task_id"] for task in document["tasks"]]
    except DefinitionRefused as refused:
        said = refused.faults
        assert said
    for fault in said:
        assert points_into(document, fault.pointer), fault
        assert str(fault).encode()


@given(DOCUMENTS)
@settings(max_examples=300, deadline=None)
def test_every_document_of_the_seeds_shape_compiles_or_gives_faults_with_valid_pointers(document: Any) -> None:
    assert fits(document, SEED_SCHEMA, SEED_SCHEMA)
    check_compiles_or_says_why(document)


ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | TRIGGERS | TEMPLATES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["event", "where", "within", "all", "attempts", "initial", "maximum", "retry", "$literal", "x-a"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
LANGUAGE = st.sampled_from(
    sorted({*definition_schema()["definitions"]["task"]["properties"], *definition_schema()["properties"], *NOT_YET})
)


@given(
    st.dictionaries(LANGUAGE, ANY_JSON, max_size=4),
    st.lists(st.dictionaries(LANGUAGE, ANY_JSON, max_size=6), max_size=3),
)
@settings(max_examples=300, deadline=None)
def test_no_value_of_any_key_makes_the_compiler_fail_otherwise(document: Any, tasks: Any) -> None:
    complete = [{"task_id": f"t{number}", "type": "x", "triggers": ["go"], **task} for number, task in enumerate(tasks)]
    check_compiles_or_says_why({"workflow_id": "w", "tasks": complete, **document})


# The schema


@given(DOCUMENTS)
@settings(deadline=None)
def test_what_the_seeds_schema_admits_of_its_own_keys_is_admitted(document: Any) -> None:
    assert accepted(document) or any("" in task["triggers"] for task in document["tasks"])


def test_the_seeds_example_fits() -> None:
    assert accepted(json.loads((Path(__file__).parents[2] / "examples" / "user_registration.json").read_text()))


WHOLE = {
    "$schema": "https://example.org/perdure.json",
    "workflow_id": "shop.order",
    "name": "Orders",
    "description": "From order to parcel.",
    "start": ["ordered"],
    "key": "{{event.payload.order_id}}",
    "defaults": {"retry": 2, "timeout": "1m", "on_failure": "fail", "x-a": 1},
    "fail_fast": True,
    "deadline": "2d",
    "output": {"parcel": "{{tasks.ship.output}}"},
    "tasks": [
        {
            "task_id": "charge",
            "type": "http",
            "triggers": ["ordered"],
            "retry": {"attempts": 5, "initial": "1s", "multiplier": 2, "maximum": 60, "jitter": "500ms"},
            "on_failure": "continue",
        },
        {"task_id": "ship", "type": "http", "depends_on": ["charge"], "when": "input.n > 0", "retry": False},
        {
            "task_id": "remind",
            "type": "email",
            "description": "Once.",
            "inputs": {"to": "{{email}}"},
            "triggers": [{"all": ["charge.failed", {"event": "unpaid", "where": "event.payload.n > 1", "within": 90}]}],
            "timeout": 9,
            "x-b": None,
        },
    ],
}


def test_every_key_of_the_language_is_in_the_schema_and_compiles() -> None:
    assert compile_definition(WHOLE).entries == {"ordered"}
    assert accepted(WHOLE)


@pytest.mark.parametrize(
    ("key", "value"), [("retries", 3), ("retry", 0), ("timeout", "soon"), ("on_failure", "x"), ("triggers", [3])]
)
def test_the_schema_refuses_what_the_compiler_refuses(key: str, value: Any) -> None:
    document = {"workflow_id": "w", "tasks": [{"task_id": "a", "type": "x", "triggers": ["go"], key: value}]}
    assert not accepted(document)
    with pytest.raises(DefinitionRefused):
        compile_definition(document)


def described(schema: Any, path: str = "") -> list[str]:
    """The properties without a description."""
    found = []
    for name, each in schema.get("properties", {}).items():
        if "description" not in each:
            found.append(f"{path}/{name}")
        found += described(each, f"{path}/{name}")
    for name, each in schema.get("definitions", {}).items():
        found += described(each, f"{path}#{name}")
    return found


def test_every_property_has_a_description_for_editors() -> None:
    assert described(definition_schema()) == []


def test_the_schema_is_a_fresh_copy() -> None:
    definition_schema()["properties"].clear()
    assert definition_schema()["properties"]

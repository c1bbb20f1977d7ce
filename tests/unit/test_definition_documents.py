"""Reading definitions: strict JSON, strict YAML, one canonical form, one digest."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from perdure_engine.definitions.compile import compile_definition
from perdure_engine.definitions.document import Form, canonical, digest_of, read_document
from perdure_engine.faults import DefinitionRefused

EXAMPLE = Path(__file__).parents[2] / "examples" / "user_registration.json"
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


class _Quoting(yaml.SafeDumper):
    """PyYAML writes for YAML 1.1, where `1e3` without quotes is text; in YAML 1.2 it is a number."""


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def refusal(text: str | bytes, form: Form | None = None) -> str:
    with pytest.raises(DefinitionRefused) as refused:
        read_document(text, form)
    return refused.value.faults[0].message


def faults_of(value: Any) -> list[str]:
    with pytest.raises(DefinitionRefused) as refused:
        canonical(value)
    return [fault.pointer for fault in refused.value.faults]


# Both forms


@given(VALUES)
def test_yaml_and_json_of_one_document_have_one_digest(value: Any) -> None:
    as_json = read_document(json.dumps(value), "json")
    as_yaml = read_document(yaml.dump(value, Dumper=_Quoting, allow_unicode=True), "yaml")
    assert as_json == as_yaml == value
    assert digest_of(canonical(as_json)) == digest_of(canonical(as_yaml))


def test_the_example_has_one_digest_in_json_and_yaml() -> None:
    document = json.loads(EXAMPLE.read_text())
    in_yaml = compile_definition(read_document(yaml.safe_dump(document)))
    in_json = compile_definition(read_document(EXAMPLE.read_bytes()))
    assert in_yaml.digest == in_json.digest == hashlib.sha256(in_json.document).hexdigest()


def test_the_canonical_form_has_sorted_keys_and_no_white_space() -> None:
    assert (
        canonical({"b": [1, 2.5, "ä"], "a": {"d": None, "c": True}})
        == '{"a":{"c":true,"d":null},"b":[1,2.5,"ä"]}'.encode()
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", ['{"a": "é"}', "a: é"])
def test_a_byte_order_mark_is_tolerated(text: str, encoding: str) -> None:
    assert read_document(text.encode(encoding)) == {"a": "é"}
    assert read_document("\ufeff" + text) == {"a": "é"}


def test_text_that_is_not_utf_8_is_refused_with_its_line() -> None:
    assert refusal(b"a: 1\nb: \xff") == "line 2: the text is not valid UTF-8"


def test_text_that_begins_with_a_brace_is_json_unless_told() -> None:
    assert refusal(" {a: 1}").startswith("line 1, column 3: this is not JSON")
    assert read_document(" {a: 1}", "yaml") == {"a": 1}


# JSON


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"a": 1,\n "b": {"a": 1, "c": 2, "a": 3}}', "line 2, column 24: the key 'a' is written twice"),
        ('{"a": [{"a": 1}, {"a": 2}],\n\n"\\u0061": 1}', "line 3, column 1: the key 'a' is written twice"),
        ('{"a": "NaN",\n "b": NaN}', "line 2, column 7: NaN is not a JSON number"),
        ('{"a": -Infinity}', "line 1, column 7: -Infinity is not a JSON number"),
        ('{"a": 1,\n}', "line 2, column 1: this is not JSON"),
        ("{", "line 1, column 2: this is not JSON"),
        ("[" * 100_000, "the JSON is nested too deep"),
        ('{"a": ' + "9" * 5_000 + "}", "the JSON holds an integer of thousands of digits"),
    ],
)
def test_json_faults_name_line_and_column(text: str, place: str) -> None:
    assert refusal(text, "json").startswith(place)


# YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("2001-01-01", "2001-01-01"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("010", 10),
        ("0o17", 15),
        ("0xff", 255),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("! 5", "5"),
        ("!!int '5'", 5),
        ("1.2.3", "1.2.3"),
    ],
)
def test_yaml_scalars_follow_the_core_schema_of_1_2(text: str, value: Any) -> None:
    read = read_document(f"key: {text}", "yaml")
    assert read == {"key": value}
    assert isinstance(read, dict)
    assert type(read["key"]) is type(value)


def test_yaml_aliases_stand_for_what_they_name() -> None:
    assert read_document("a: &x [1, {b: 2}]\nc: [*x, *x]") == {"a": [1, {"b": 2}], "c": [[1, {"b": 2}]] * 2}


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' is written twice"),
        ("a: {b: 1, b: 2}", "line 1, column 11: the key 'b' is written twice"),
        ("1: a", 'line 1, column 1: a key must be text: write "1"'),
        ("? [a]\n: b", "line 1, column 3: a key must be text"),
        ("a: .nan", "line 1, column 4: .nan is not a JSON number"),
        ("a: -.inf", "line 1, column 4: -.inf is not a JSON number"),
        ("a: !!python/name:os.system x", "line 1, column 4: the tag"),
        ("a: !!timestamp 2001-01-01", "line 1, column 4: the tag"),
        ("a: !!set {b}", "line 1, column 4: the tag"),
        ("a: &x [*x]", "line 1, column 8: *x would hold itself"),
        ("a: *x", "line 1, column 4: no anchor &x"),
        ("a: &x {b: 1}\nc: {<<: *x}", "line 2, column 5: merge keys"),
        ("a: 1\n---\nb: 2", "line 2, column 1: there is a second document"),
        ("a: [1\nb: 2", "line 2, column 2: this is not YAML"),
        ("a: \x07", "this is not YAML"),
        ("[" * 100_000, "line 1, column 101: values are nested more than 100 deep"),
        ("a: " + "9" * 2_000, "line 1, column 4: an integer of thousands of digits"),
        (BOMB, "line 7, column 10: the document holds more than 1,000,000 values"),
    ],
)
def test_yaml_faults_name_line_and_column(text: str, sentence: str) -> None:
    assert refusal(text, "yaml").startswith(sentence)


def test_an_empty_text_is_no_definition() -> None:
    with pytest.raises(DefinitionRefused, match="not null"):
        compile_definition(read_document("# nothing\n"))


# Values


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "pointers"),
    [
        ({"a": [1, 2**64]}, ["/a/1"]),
        ({"a": -(2**63) - 1}, ["/a"]),
        ({"a": float("nan"), "b": float("inf")}, ["/a", "/b"]),
        ({"a/b~": "\ud800"}, ["/a~1b~0"]),
        ({"\ud800": 1}, ["/\\ud800"]),
        ({"a": "x\0y", "ä": "ä\0"}, ["/a", "/ä"]),
        ({"a": (1, 2)}, ["/a"]),
        ({"a": {1: 2}}, ["/a"]),
        ({"a": b"x"}, ["/a"]),
        (nested(101), ["/0" * 100]),
    ],
)
def test_values_json_cannot_keep_are_refused_where_they_stand(value: Any, pointers: list[str]) -> None:
    assert faults_of(value) == pointers


def test_a_value_that_holds_itself_is_refused() -> None:
    value: dict[str, Any] = {}
    value["a"] = [value]
    assert faults_of(value) == ["/a/0"]


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), 1.5, "ä\U0001f600\n", nested(100)])
def test_values_json_keeps_are_kept(value: Any) -> None:
    assert json.loads(canonical({"a": [value]} if not isinstance(value, list) else value)) in ({"a": [value]}, value)


def test_a_refused_value_names_its_definition() -> None:
    with pytest.raises(DefinitionRefused, match="definition w is refused: /x-n: an integer beyond 64 bits"):
        compile_definition({"workflow_id": "w", "x-n": 2**70})

"""What comes in through the door is kept exactly, or refused with a sentence; nothing is changed."""

import enum
import json
import math
import re
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure_eventstore.door import MAX_BYTES, MAX_DEPTH, NULL, Json, PayloadRefused, json_object


class Number(int):
    pass


class Text(str):
    pass


class Colour(enum.Enum):
    RED = 1


class Word(enum.StrEnum):
    YES = "yes"


@dataclass
class Point:
    x: int


def nested(depth: int, innermost: Any = 1, *, objects: bool = False) -> Any:
    value = innermost
    for _ in range(depth):
        value = {"a": value} if objects else [value]
    return value


NOT_JSON = "is not JSON; pass plain dicts, lists, strings, numbers, booleans or None"
NUL = "U+0000 cannot be kept by Postgres; remove it or encode the bytes as base64"

REFUSED_VALUES = [
    (math.nan, "at /: nan is not JSON; pass null or a string"),
    (math.inf, "at /: inf is not JSON; pass null or a string"),
    ({"a": [0, -math.inf]}, "at /a/1: -inf is not JSON; pass null or a string"),
    ({"a/b": {"~": math.nan}}, "at /a~1b/~0: nan is not JSON; pass null or a string"),
    ([None, math.nan], "at /1: nan is not JSON; pass null or a string"),
    ("a\ud800", r"at /: '\ud800' is a lone surrogate, which is not text"),
    ({"a": ["\udfff"]}, r"at /a/0: '\udfff' is a lone surrogate, which is not text"),
    ({"\ud800": 1}, r"at /: in a key, '\ud800' is a lone surrogate, which is not text"),
    ("a\0b", f"at /: {NUL}"),
    ({"a": {"b\0": 1}}, f"at /a: in a key, {NUL}"),
    (2**64, "at /: the integer 0x10000000000000000 is beyond 64 bits"),
    ([-(2**63) - 1], "at /0: the integer -0x8000000000000001 is beyond 64 bits"),
    (10**5000, "is beyond 64 bits"),
    ({1: "a"}, "at /: the key 1 is not a string"),
    ({"a": {None: 1}}, "at /a: the key None is not a string"),
    ({Word.YES: 1}, "at /: the key <Word.YES: 'yes'> is not a string"),
    ({Text("a"): 1}, "at /: the key 'a' is not a string"),
    (datetime(2026, 1, 1, tzinfo=UTC), f"at /: a datetime {NOT_JSON}"),
    ({"on": date(2026, 1, 1)}, f"at /on: a date {NOT_JSON}"),
    (Decimal("1.10"), f"at /: a Decimal {NOT_JSON}"),
    (b"bytes", f"at /: a bytes {NOT_JSON}"),
    (bytearray(b"bytes"), f"at /: a bytearray {NOT_JSON}"),
    ({1, 2}, f"at /: a set {NOT_JSON}"),
    (Point(1), f"at /: a Point {NOT_JSON}"),
    (Number(1), f"at /: a Number {NOT_JSON}"),
    (Text("a"), f"at /: a Text {NOT_JSON}"),
    (OrderedDict(a=1), f"at /: a OrderedDict {NOT_JSON}"),
    (UUID(int=1), f"at /: a UUID {NOT_JSON}"),
    ([Colour.RED], f"at /0: a Colour {NOT_JSON}"),
    (Word.YES, f"at /: a Word {NOT_JSON}"),
    (1j, f"at /: a complex {NOT_JSON}"),
    (..., f"at /: a ellipsis {NOT_JSON}"),
    (object(), f"at /: a object {NOT_JSON}"),
    (nested(10_000), f"the value is nested more than {MAX_DEPTH} deep"),
    (nested(10_000, objects=True), f"the value is nested more than {MAX_DEPTH} deep"),
    (nested(MAX_DEPTH + 1), f"the value is nested more than {MAX_DEPTH} deep"),
]

REFUSED_TEXTS: list[tuple[str | bytes, str]] = [
    ("NaN", "NaN is not JSON; pass null or a string"),
    ('{"a": [Infinity]}', "Infinity is not JSON; pass null or a string"),
    ("[-Infinity]", "-Infinity is not JSON; pass null or a string"),
    (r'"\ud800"', r"at /: '\ud800' is a lone surrogate, which is not text"),
    (r'{"\udc00": 1}', r"at /: in a key, '\udc00' is a lone surrogate, which is not text"),
    ('"\ud800"', "the text is not valid UTF-8: surrogates not allowed"),
    (b'"\xed\xa0\x80"', "the text is not valid UTF-8: invalid continuation byte"),
    (b'"\xff"', "the text is not valid UTF-8: invalid start byte"),
    (r'"\u0000"', f"at /: {NUL}"),
    (r'{"a\u0000": 1}', f"at /: in a key, {NUL}"),
    ('"\0"', "not JSON: Invalid control character at at line 1, column 2"),
    ("18446744073709551616", "the integer 18446744073709551616 is beyond 64 bits; pass it as a string"),
    ("[-9223372036854775809]", "the integer -9223372036854775809 is beyond 64 bits; pass it as a string"),
    ("1" * 5_000, "the integer 111111111111111111111111… is beyond 64 bits; pass it as a string"),
    ("1e309", "the number 1e309 is beyond a double; pass it as a string"),
    ("-1e309", "the number -1e309 is beyond a double; pass it as a string"),
    ("9" * 400 + ".5", "the number 999999999999999999999999… is beyond a double; pass it as a string"),
    ('{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice in one object"),
    (r'[{"a": 1, "\u0061": 1}]', "the key 'a' stands twice in one object"),
    ("[" * 10_000 + "]" * 10_000, f"the value is nested more than {MAX_DEPTH} deep"),
    ('{"a":' * 10_000 + "1" + "}" * 10_000, f"the value is nested more than {MAX_DEPTH} deep"),
    ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"the value is nested more than {MAX_DEPTH} deep"),
    ("", "not JSON: Expecting value at line 1, column 1"),
    ("{'a': 1}", "not JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
    ('{"a": 1}\n  x', "not JSON: Extra data at line 2, column 3"),
    ("\ufeff1", "not JSON: Unexpected UTF-8 BOM"),
    ("01", "not JSON: Extra data at line 1, column 2"),
]

KEPT_VALUES: list[tuple[Any, bytes]] = [
    (1e16, b"1e16"),
    (1.1, b"1.1"),
    (-0.0, b"-0.0"),
    (1.0, b"1.0"),
    (5e-324, b"5e-324"),
    (2**53 + 1, b"9007199254740993"),
    (2**63, b"9223372036854775808"),
    (2**64 - 1, b"18446744073709551615"),
    (-(2**63), b"-9223372036854775808"),
    ("😀é", '"😀é"'.encode()),
    ({"": {"": []}}, b'{"":{"":[]}}'),
    (r"\u0000", rb'"\\u0000"'),
    (r"null \u0000 null", rb'"null \\u0000 null"'),
    ("\ufeff\u2028\x1f\x7f", b'"\xef\xbb\xbf\xe2\x80\xa8\\u001f\x7f"'),
    ({"b": 1, "a": None, "c": True}, b'{"b":1,"a":null,"c":true}'),
]

KEPT_TEXTS = [
    "1e16", "1.10", "-0.0", "-0", "1E+2", "0.1000000000000000055511151231257827", "9223372036854775808",
    "18446744073709551615", "-9223372036854775808", r'"\u00e9\/"', r'"\\u0000"', r'"\ud83d\ude00"', '"😀"', '{"": 0}',
    '{"b" :\t1,\n"a": [ ]}', "null", '{"a": {"x": 1}, "b": {"x": 1}}',
]  # fmt: skip


def named(case: Any) -> str | None:
    return None if isinstance(case, str) and len(case) < 60 else "case"


@pytest.mark.parametrize(("value", "sentence"), REFUSED_VALUES, ids=named)
def test_a_value_that_cannot_be_kept_is_refused_with_a_sentence(value: Any, sentence: str) -> None:
    with pytest.raises(PayloadRefused, match=re.escape(sentence)):
        Json.of(value)


@pytest.mark.parametrize(("text", "sentence"), REFUSED_TEXTS, ids=named)
def test_a_text_that_cannot_be_kept_is_refused_with_a_sentence(text: str | bytes, sentence: str) -> None:
    with pytest.raises(PayloadRefused, match=re.escape(sentence)):
        Json.parse(text)


@pytest.mark.parametrize(("value", "text"), KEPT_VALUES, ids=named)
def test_a_value_is_kept_exactly(value: Any, text: bytes) -> None:
    kept = Json.of(value)
    # With or without the plus in an exponent, as versions of orjson have it: the number is the same.
    assert kept.text.replace(b"e+", b"e") == text
    # repr tells 1 from 1.0 from True, and -0.0 from 0.0; Python's own parser is the judge.
    assert repr(Json(kept.text).value) == repr(value) == repr(json.loads(kept.text))


@pytest.mark.parametrize("text", KEPT_TEXTS)
@pytest.mark.parametrize("around", ["*", " \r\n*\t "])
def test_a_text_is_kept_byte_for_byte(text: str, around: str) -> None:
    assert Json.parse(around.replace("*", text)).text == text.encode()
    assert Json.parse(around.replace("*", text).encode()).text == text.encode()


def test_a_loop_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(PayloadRefused, match="nested more than"):
        Json.of(loop)


@pytest.mark.parametrize("objects", [False, True])
def test_what_is_just_not_too_deep_is_kept_by_value_and_by_text(objects: bool) -> None:
    value = nested(MAX_DEPTH, objects=objects)
    kept = Json.of(value)
    assert kept.value == value == Json.parse(kept.text).value


def test_100_MB_are_refused_with_what_to_do_instead() -> None:
    sentence = (
        "the value takes 100,000,002 bytes as JSON, more than the limit of 16,777,216; store it elsewhere and pass"
    )
    with pytest.raises(PayloadRefused, match=sentence):
        Json.of("a" * 100_000_000)
    with pytest.raises(PayloadRefused, match=sentence):
        Json.parse(b'"' + b"a" * 100_000_000 + b'"')


def test_the_limit_itself_is_kept() -> None:
    assert len(Json.of("a" * (MAX_BYTES - 2)).text) == MAX_BYTES
    assert Json.parse('"aa"', limit=4).text == b'"aa"'
    with pytest.raises(PayloadRefused, match="more than the limit of 4"):
        Json.parse('"aaa"', limit=4)
    with pytest.raises(PayloadRefused, match="more than the limit of 4"):
        Json.of("aaa", limit=4)


def test_a_tuple_is_a_list() -> None:
    assert Json.of({"a": (1, (2,))}).text == b'{"a":[1,[2]]}'


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_any_value_comes_back_as_it_went_in(value: Any) -> None:
    kept = Json.of(value)
    assert repr(Json(kept.text).value) == repr(value)
    assert Json.parse(kept.text) == kept


@given(values, st.sampled_from([None, 0, 3]), st.booleans())
def test_any_text_comes_back_byte_for_byte(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    kept = Json.parse(text)
    assert kept.text == text.encode()
    assert repr(kept.value) == repr(value)


@given(st.text())
def test_any_string_is_kept_or_refused(text: str) -> None:
    try:
        kept = Json.of({text: text})
    except PayloadRefused:
        assert "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)
    else:
        assert kept.value == {text: text}


def test_an_object_is_spliced_from_members_as_written() -> None:
    members = [("a", Json.parse("1.10")), ('"', NULL), ("c", Json.parse('{"x" : 1e16}'))]
    assert json_object(iter(members)).text == rb'{"a":1.10,"\"":null,"c":{"x" : 1e16}}'


def test_json_is_equal_when_the_texts_are() -> None:
    assert Json.parse(" 1.0 ") == Json.of(1.0)
    assert hash(Json.parse(" 1.0 ")) == hash(Json.of(1.0))
    assert Json.parse("1.0") != Json.parse("1.00")
    assert Json(b"1") != 1
    assert repr(Json.of("a")) == 'Json("a")'
    assert len(repr(Json.of("a" * 500))) < 100

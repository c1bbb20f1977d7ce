"""The door: user data comes in as JSON text that is kept exactly, or it is refused with a sentence.

``Json`` is the only form in which user data travels through the log. It holds the text as written and parses it when
somebody looks, so a payload that nobody reads costs nothing.
"""

import json
import marshal
import math
from collections.abc import Iterator
from typing import Any, Final

import orjson

MAX_BYTES: Final = 16 * 1024 * 1024
_ORJSON_BUFFER: Final = 1024
"""Bytes that orjson begins to write into."""
MAX_DEPTH: Final = 254  # as deep as orjson writes
_NUL: Final = b"\\u0000"
# Dates, dataclasses and subclasses would be rewritten on the way: they are refused, not guessed.
_EXACT: Final = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS


class PayloadRefused(ValueError):
    """User data that cannot be kept exactly. The message says what, where, and what would be right."""


class Json:
    """A JSON value as text (UTF-8 bytes), parsed on first use of ``value``. Equal when the texts are equal."""

    __slots__ = ("_value", "text")

    text: bytes

    def __init__(self, text: bytes) -> None:
        """Take ``text`` that came out of the log, or of this module; see ``of`` and ``parse`` for anything else."""
        self.text = text

    @classmethod
    def of(cls, value: Any, limit: int = MAX_BYTES) -> "Json":
        """Encode plain Python data: dict with string keys, list, tuple, str, int, float, bool, None.

        Raises PayloadRefused for what JSON or Postgres would change or cannot hold.
        """
        try:
            text = orjson.dumps(value, option=_EXACT)
            # orjson turns UUIDs and enumerations into others; marshal takes nothing but the plain types, at C's speed.
            marshal.dumps(value)
        except (orjson.JSONEncodeError, RecursionError, ValueError) as error:
            raise PayloadRefused(_why_not(value) or f"this value cannot be written as JSON: {error}") from error
        # orjson writes NaN and Infinity as null and lets U+0000 pass: both show in the text, so looking is cheap.
        if (b"null" in text or _NUL in text) and (why := _why_not(value)):
            raise PayloadRefused(why)
        _check_size(text, limit)
        # orjson writes into a kilobyte and shortens that in place: a short text, kept, would hold up all of it.
        return cls(b"%b" % text if len(text) < _ORJSON_BUFFER else text)

    @classmethod
    def parse(cls, text: bytes | str, limit: int = MAX_BYTES) -> "Json":
        """Keep JSON text as written, once it is shown to mean the same to every reader.

        Raises PayloadRefused for text that is not JSON, and for what parsing would change: integers beyond 64 bits,
        numbers beyond a double, NaN, repeated keys, lone surrogates, U+0000.
        """
        try:
            raw = text.encode() if isinstance(text, str) else text
            _check_size(raw, limit)
            value = json.loads(
                raw.decode(),
                parse_int=_integer,
                parse_float=_number,
                parse_constant=_constant,
                object_pairs_hook=_pairs,
            )
        except (UnicodeDecodeError, UnicodeEncodeError) as error:
            raise PayloadRefused(f"the text is not valid UTF-8: {error.reason}") from error
        except RecursionError as error:
            raise PayloadRefused(f"the value is nested more than {MAX_DEPTH} deep") from error
        except json.JSONDecodeError as error:
            raise PayloadRefused(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
        if why := _why_not(value):
            raise PayloadRefused(why)
        return cls(raw.strip())

    @property
    def value(self) -> Any:
        """The parsed value. Shared between readers: treat it as frozen."""
        try:
            return self._value
        except AttributeError:
            self._value: Any = orjson.loads(self.text)
            return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Json) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        text = self.text.decode()
        return f"Json({text if len(text) <= 80 else text[:77] + '...'})"


NULL: Final = Json(b"null")


def json_object(members: Iterator[tuple[str, Json]]) -> Json:
    """An object whose members are spliced in as written."""
    return Json(b"{" + b",".join(orjson.dumps(name) + b":" + value.text for name, value in members) + b"}")


def _check_size(text: bytes, limit: int) -> None:
    if len(text) > limit:
        raise PayloadRefused(
            f"the value takes {len(text):,} bytes as JSON, more than the limit of {limit:,}; "
            "store it elsewhere and pass a reference"
        )


def _integer(digits: str) -> int:
    # Longer than any 64-bit integer: do not even convert, int() refuses thousands of digits with an error of its own.
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise PayloadRefused(f"the integer {_short(digits)} is beyond 64 bits; pass it as a string")
    return int(digits)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise PayloadRefused(f"the number {_short(text)} is beyond a double; pass it as a string")
    return number


def _constant(name: str) -> float:
    raise PayloadRefused(f"{name} is not JSON; pass null or a string")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise PayloadRefused(f"the key {twice!r} stands twice in one object")
    return found


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:24] + "…"


def _why_not(value: Any) -> str | None:
    """Say what keeps ``value`` from being kept exactly, and where (as a JSON pointer); None if nothing does."""
    stack: list[tuple[Any, str, int]] = [(value, "", 0)]
    while stack:
        item, pointer, depth = stack.pop()
        if depth >= MAX_DEPTH and isinstance(item, dict | list | tuple):
            return f"the value is nested more than {MAX_DEPTH} deep"
        if why := _scalar_fault(item):
            return f"at {pointer or '/'}: {why}"
        if isinstance(item, dict):
            for key, member in item.items():
                if type(key) is not str:
                    return f"at {pointer or '/'}: the key {key!r:.60} is not a string"
                if why := text_fault(key):
                    return f"at {pointer or '/'}: in a key, {why}"
                stack.append((member, f"{pointer}/{_escaped(key)}", depth + 1))
        elif isinstance(item, list | tuple):
            stack.extend((member, f"{pointer}/{i}", depth + 1) for i, member in enumerate(item))
    return None


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _scalar_fault(item: Any) -> str | None:
    kind = type(item)
    if kind is str:
        return text_fault(item)
    if kind is float:
        return None if math.isfinite(item) else f"{item} is not JSON; pass null or a string"
    if kind is int:
        return None if -(2**63) <= item < 2**64 else f"the integer {_short(hex(item))} is beyond 64 bits"
    if item is None or kind in (bool, dict, list, tuple):
        return None
    return f"a {kind.__qualname__} is not JSON; pass plain dicts, lists, strings, numbers, booleans or None"


def text_fault(text: str) -> str | None:
    """Say what keeps ``text`` from being kept; None if nothing does."""
    if "\0" in text:
        return "U+0000 cannot be kept by Postgres; remove it or encode the bytes as base64"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{text[error.start]!r} is a lone surrogate, which is not text"
    return None

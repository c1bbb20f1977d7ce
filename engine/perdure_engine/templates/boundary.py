"""The border between JSON and CEL: what may go in, and what may come out.

The CEL package would turn integers past 64 bits into floats, end the process on a deeply nested value, and walk a map
in an order drawn at random. What it cannot carry exactly is refused here, by name.
"""

import math
from collections.abc import Mapping
from typing import Any

from perdure_engine.templates.paths import kind

DEEPEST = 100
"""Levels a value may have. CEL recurses natively: some 300 would end a thread with a stack of 512 KiB."""

MOST = 10_000
"""Elements a macro goes through."""


class Refused(ValueError):
    """A value cannot cross. The message is a clause."""


def admit(value: Any, depth: int = DEEPEST) -> Any:
    """``value``, if CEL carries it exactly. Raises Refused."""
    sort = type(value)
    if sort is str or sort is bool or value is None:
        return value
    if sort is int or sort is float:
        return _number(value)
    if sort is not list and sort is not dict:
        raise Refused(f"it holds {kind(value)}, which is not JSON")
    if depth == 0:
        raise Refused(f"it is nested deeper than {DEEPEST} levels")
    for element in value if sort is list else value.values():
        admit(element, depth - 1)
    return value


def _number(value: float) -> float:
    if isinstance(value, float) and not math.isfinite(value):
        raise Refused("it holds a number that is not finite")
    # -2**63 is refused with them: CEL negates it to itself.
    if isinstance(value, int) and not -(2**63) < value < 2**64:
        raise Refused("it holds an integer beyond 64 bits, which only a plain path carries exactly")
    return value


def each(value: Any) -> list[Any]:
    """What a macro goes through: a list, or an object's keys in order. Raises Refused for another and for too many."""
    if not isinstance(value, list | Mapping):
        raise Refused(f"a macro goes through a list or an object's keys, and this is {kind(value)}")
    if len(value) > MOST:
        raise Refused(f"a macro goes through {MOST:,} elements at most, and here are {len(value):,}")
    return value if isinstance(value, list) else sorted(value, key=str)


def size(value: Any) -> int:
    """Characters of a text, elements of a list or an object. Raises Refused for another."""
    if not isinstance(value, str | list | dict | bytes):
        raise Refused(f"`size` measures texts, lists and objects, and this is {kind(value)}")
    return len(value)


def release(value: Any) -> Any:
    """A result as JSON, keys sorted: CEL gives an object's back in an order drawn at random. Raises Refused."""
    sort = type(value)
    if sort is str or sort is bool or sort is int or value is None:
        return value
    if sort is float:
        if not math.isfinite(value):
            raise Refused("the result is not a finite number")
        return value
    if sort is list:
        return [release(element) for element in value]
    if sort is dict:
        if not all(type(key) is str for key in value):
            raise Refused("an object in the result has a key that is not a text")
        return {key: release(value[key]) for key in sorted(value)}
    names = {"datetime": "a timestamp", "timedelta": "a duration", "bytes": "bytes"}
    what = names.get(sort.__name__, sort.__name__)
    raise Refused(f"the result is {what}, which is not JSON; string(…) makes a text of it")

"""JSON text, read strictly: no key twice, no NaN, and every complaint with its line and column."""

import json
import re
from typing import NoReturn


def read_json(text: str) -> object:
    """The value the text stands for.

    Raises ValueError with a sentence that begins with line and column.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"{_place(text, error.pos)}: this is not JSON: {error.msg}") from error
    except _Repeated:
        position, key = _first_repeated(text)
        raise ValueError(f"{_place(text, position)}: the key {key!r:.60} is written twice") from None
    except _Constant as constant:
        position = next(token.start() for token in _CONSTANT.finditer(text) if token[1])
        raise ValueError(f"{_place(text, position)}: {constant} is not a JSON number") from None
    except RecursionError:
        raise ValueError("the JSON is nested too deep") from None
    except ValueError as error:
        raise ValueError("the JSON holds an integer of thousands of digits; write it as text") from error


class _Repeated(Exception):
    """An object has a key twice; Python's parser does not say where."""


class _Constant(Exception):
    """NaN or an infinity."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Repeated
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise _Constant(name)


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]')
_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(-?Infinity|NaN)')


def _first_repeated(text: str) -> tuple[int, str]:
    """Where a key stands for the second time in its object, and the key. The text is known to be JSON."""
    open_objects: list[set[str] | None] = []
    last: re.Match[str] | None = None
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "{":
                open_objects.append(set())
            case "[":
                open_objects.append(None)
            case "}" | "]":
                open_objects.pop()
            case ":":
                seen = open_objects[-1]
                if last is None or seen is None:
                    continue
                key = json.loads(last[0])
                if key in seen:
                    return last.start(), key
                seen.add(key)
        last = token
    return 0, ""


def _place(text: str, position: int) -> str:
    line_start = text.rfind("\n", 0, position) + 1
    return f"line {text.count(chr(10), 0, position) + 1}, column {position - line_start + 1}"

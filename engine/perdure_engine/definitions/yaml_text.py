"""YAML text, read strictly and without recursion: JSON values only, no key twice, no bombs.

PyYAML's loaders follow YAML 1.1, where ``on`` is true and ``2001-01-01`` a date, and its composer recurses once a
level (deep text overflows the C stack). So only its parser is used; the values are built here, from its events.
"""

import re
from typing import Any, NamedTuple

import yaml

from perdure_engine.definitions.values import DEEPEST

_LARGEST = 1_000_000
"""How many values a document may hold once its aliases are put in place."""
_PARSER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OTHER_BASE = re.compile(r"0o([0-7]+)|0x([0-9a-fA-F]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CORE = "tag:yaml.org,2002:"


def read_yaml(text: str) -> object:
    """The value the text stands for.

    Raises ValueError with a sentence that begins with line and column.
    """
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_PARSER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise ValueError(f"{_place(error.problem_mark or error.context_mark)}: this is not YAML: {problem}") from error
    except yaml.reader.ReaderError as error:
        raise ValueError(f"this is not YAML: {_one_line(error)}") from error
    return builder.result()


class _Anchored(NamedTuple):
    value: object
    size: int


class _Open:
    """A list or an object whose end has not come yet."""

    def __init__(self, event: Any) -> None:
        self.anchor: str | None = event.anchor
        self.value: list[object] | dict[str, object] = [] if isinstance(event, yaml.SequenceStartEvent) else {}
        self.key: str | None = None
        self.size = 1


class _Builder:
    """Builds the value from the parser's events, on a stack of its own."""

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchored | None] = {}
        self._size = 0
        self._documents: list[object] = []

    def take(self, event: Any) -> None:
        """One event of the parser."""
        match event:
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self._begin(event)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                done = self._open.pop()
                self._put(done.value, done.size, done.anchor, event)
            case yaml.AliasEvent():
                self._put(*self._aliased(event), None, event)
            case yaml.DocumentStartEvent() if self._documents:
                raise _refusal(event, "there is a second document; a definition is one")
            case yaml.ScalarEvent():
                self._put(_scalar(event), 1, event.anchor, event)

    def result(self) -> object:
        """The one document's value; an empty text's is null."""
        return self._documents[0] if self._documents else None

    def _begin(self, event: Any) -> None:
        if self._open and isinstance(self._open[-1].value, dict) and self._open[-1].key is None:
            raise _refusal(event, "a key must be text")
        if event.tag not in (None, "!", _CORE + "seq", _CORE + "map"):
            raise _refusal(event, f"the tag {event.tag!r} has no meaning here")
        if len(self._open) == DEEPEST:
            raise _refusal(event, f"values are nested more than {DEEPEST} deep")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._open.append(_Open(event))

    def _aliased(self, event: Any) -> _Anchored:
        if event.anchor not in self._anchors:
            raise _refusal(event, f"no anchor &{event.anchor} stands before this alias")
        anchored = self._anchors[event.anchor]
        if anchored is None:
            raise _refusal(event, f"*{event.anchor} would hold itself")
        self._size += anchored.size
        return anchored

    def _put(self, value: object, size: int, anchor: str | None, event: Any) -> None:
        self._size += 1
        if self._size > _LARGEST:
            raise _refusal(event, f"the document holds more than {_LARGEST:,} values")
        if anchor is not None:
            self._anchors[anchor] = _Anchored(value, size)
        if not self._open:
            self._documents.append(value)
            return
        inside = self._open[-1]
        inside.size += size
        if isinstance(inside.value, list):
            inside.value.append(value)
        elif inside.key is None:
            inside.key = _key(value, inside.value, event)
        else:
            inside.value[inside.key] = value
            inside.key = None


def _key(value: object, seen: dict[str, object], event: Any) -> str:
    if not isinstance(value, str):
        written = f': write "{event.value}"' if isinstance(event, yaml.ScalarEvent) else ""
        raise _refusal(event, f"a key must be text{written}")
    if value in seen:
        raise _refusal(event, f"the key {value!r:.60} is written twice")
    if value == "<<" and not event.style:
        raise _refusal(event, "merge keys (<<) are not part of YAML 1.2; write the keys out")
    return value


def _scalar(event: Any) -> object:
    plain = event.tag is None and event.implicit[0]
    if plain:
        return _plain(event.value, event)
    if event.tag in (None, "!", _CORE + "str"):
        return event.value
    value = _plain(event.value, event)
    if event.tag == _CORE + _KINDS.get(type(value), ""):
        return value
    raise _refusal(event, f"the tag {event.tag!r} does not fit {event.value!r}")


_KINDS: dict[type, str] = {type(None): "null", bool: "bool", int: "int", float: "float"}


def _plain(text: str, event: Any) -> object:
    """What an unquoted scalar stands for in YAML 1.2's core schema."""
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _NOT_FINITE.fullmatch(text):
        raise _refusal(event, f"{text} is not a JSON number")
    if _INTEGER.fullmatch(text):
        if len(text) > 1_000:
            raise _refusal(event, "an integer of thousands of digits; write it as text")
        return int(text)
    if other := _OTHER_BASE.fullmatch(text):
        return int(other[1], 8) if other[1] else int(other[2], 16)
    return float(text) if _FLOAT.fullmatch(text) else text


def _refusal(event: Any, sentence: str) -> ValueError:
    return ValueError(f"{_place(event.start_mark)}: {sentence}")


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "at the end"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

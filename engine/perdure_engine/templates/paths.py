"""Plain paths: ``a.b[0]["c-d"]``, resolved exactly, whatever the field's name and however big the number."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from perdure_engine.templates.cel_package import evaluate_cel
from perdure_engine.templates.errors import TemplateError, shorten
from perdure_engine.templates.lexer import END, Token
from perdure_engine.templates.scope import ROOTS, Scope, plain

Reference = tuple[str | int, ...]
"""A root and the way down from it: ``("tasks", "charge", "output", "id")``."""

LITERALS = frozenset({"true", "false", "null"})

_NAME = re.compile(r"[^\W\d]\w*")
_SHOWN = 10
_SEARCHED = 1_000


@dataclass(frozen=True, slots=True)
class Path:
    """A way from a root to a value. ``text`` is as written, ``reference`` with the root spelt out."""

    text: str
    reference: Reference

    def find(self, scope: Scope, pointer: str) -> Any:
        """The value, as it is. Raises TemplateError for a missing one, naming what there is."""
        value: Any = scope
        try:
            for step in self.reference:
                if type(value) is str:
                    raise TypeError("a text has no fields")
                value = value[step]
        except (KeyError, IndexError, TypeError) as error:
            broken = self._broken(scope)
            if broken is None:  # the fault is in a lazy root, not in the path
                raise
            raise _error(self, pointer, *broken) from error
        return plain(value)

    def present(self, scope: Scope) -> bool:
        """Whether there is such a value; null is one."""
        return self._broken(scope) is None

    def _broken(self, scope: Scope) -> tuple[int, Any] | None:
        """The first step that leads nowhere, and the value it was asked of."""
        value: Any = scope
        for depth, step in enumerate(self.reference):
            if not _has(value, step):
                return depth, value
            value = value[step]
        return None


def read_path(source: str, tokens: Sequence[Token], start: int) -> tuple[Path, int]:
    """The longest plain path from the name at ``start``, and the index of the token after it."""
    steps: list[str | int] = [tokens[start].text]
    at = start + 1
    while (read := _step(tokens, at)) is not None:
        steps.append(read[0])
        at = read[1]
    reference = tuple(steps) if steps[0] in ROOTS else ("input", *steps)
    return Path(source[tokens[start].start : tokens[at - 1].end], reference), at


def spell(steps: Sequence[str | int]) -> str:
    """A path as it is written in a template."""
    text = str(steps[0])
    for step in steps[1:]:
        named = isinstance(step, str) and _NAME.fullmatch(step)
        text += f".{step}" if named else f"[{json.dumps(step, ensure_ascii=False)}]"
    return text


def look(tokens: Sequence[Token], at: int) -> Token:
    """The token at ``at``, or END."""
    return tokens[at] if 0 <= at < len(tokens) else END


def _step(tokens: Sequence[Token], at: int) -> tuple[str | int, int] | None:
    first, second, third = look(tokens, at), look(tokens, at + 1), look(tokens, at + 2)
    if first.text == "." and second.kind == "name" and third.text != "(":
        return second.text, at + 2
    if first.text == "[" and third.text == "]":
        step = _index(second)
        return None if step is None else (step, at + 3)
    return None


def _index(token: Token) -> str | int | None:
    if token.kind == "number" and token.text.isdecimal():
        return int(token.text)
    if token.kind not in ("string", "raw"):
        return None
    if "\\" not in token.text and token.text[0] == token.text[-1] and token.text[1:2] != token.text[0]:
        return token.text[1:-1]
    for read in (json.loads, evaluate_cel):  # JSON first: CEL knows no surrogate pairs
        try:
            value = read(token.text)
        except ValueError:
            continue
        return value if isinstance(value, str) else None
    return None  # CEL will say what is wrong with it


def _has(value: Any, step: str | int) -> bool:
    if isinstance(value, Mapping):
        return step in value
    return isinstance(value, list | tuple) and isinstance(step, int) and step < len(value)


def _error(path: Path, pointer: str, depth: int, value: Any) -> TemplateError:
    step = path.reference[depth]
    if depth == 0:
        names = [str(name) for name in value]
        return TemplateError(pointer, path.text, f"`{step}` means nothing here; there is {_names(names)}", names)
    parent = spell(path.reference[:depth])
    if isinstance(value, Mapping):
        names = [str(name) for name in value]
        # `tasks.charge-card` reads as a subtraction, so a name that goes on with a hyphen is near too
        near = [name for name in names if name.startswith(f"{step}-")] or get_close_matches(
            str(step), names[:_SEARCHED], 1
        )
        hint = f"; did you mean `{spell((*path.reference[:depth], near[0]))}`?" if near else ""
        return TemplateError(pointer, path.text, f"`{parent}` has no {step!r}; it has {_names(names)}{hint}", names)
    if isinstance(value, list | tuple):
        what = f"`{parent}` is a list of {len(value)}, and {step!r} is no index of it"
        return TemplateError(pointer, path.text, what)
    return TemplateError(pointer, path.text, f"`{parent}` is {kind(value)}, which has no {step!r}")


def kind(value: Any) -> str:
    """What sort of JSON value it is, in words."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def _names(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(f"`{shorten(name)}`" for name in names[:_SHOWN]) + more

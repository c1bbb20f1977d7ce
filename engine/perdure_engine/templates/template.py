"""A value of a definition with its templates compiled."""

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from perdure_engine.faults import Fault
from perdure_engine.templates.errors import TemplateError, TemplateSyntaxError, shorten
from perdure_engine.templates.expression import compile_node
from perdure_engine.templates.lexer import Unreadable, pieces
from perdure_engine.templates.nodes import NOTHING, Constant, Node
from perdure_engine.templates.paths import Reference
from perdure_engine.templates.scope import Scope
from perdure_eventstore.door import Json, PayloadRefused

DEEPEST = 100
"""Levels a value with templates may have; what ``$literal`` holds may have more."""


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A JSON value whose strings may hold ``{{…}}``, compiled."""

    pointer: str
    node: Node = field(repr=False)

    def resolve(self, scope: Scope) -> Any:
        """The value; what it shares with the definition or the scope may not be changed. Raises TemplateError.

        What a template resolves to is data: it is never read for templates again.
        """
        return self.node.resolve(scope)

    @property
    def constant(self) -> Json | None:
        """Its value, if that is the same in every scope. None as well for one that is no JSON: resolving says so."""
        if not isinstance(self.node, Constant):
            return None
        try:
            return Json.of(self.node.value)
        except PayloadRefused:
            return None

    @property
    def references(self) -> frozenset[Reference]:
        """Every path it uses, as far as its text tells: `tasks[input.name]` counts as all of ``tasks``."""
        return self.node.references

    @property
    def required(self) -> frozenset[Reference]:
        """The paths that may not be missing: those that neither ``default`` nor ``has`` asks after."""
        return self.node.required


def compile_template(value: Any, pointer: str = "") -> Template:
    """Compiles a JSON value; keys are left as they are, ``{"$literal": X}`` is X.

    ``pointer`` is the value's own place. Raises TemplateSyntaxError with every fault at once.
    """
    faults: list[Fault] = []
    node = _compile(value, pointer, faults, DEEPEST)
    if faults:
        raise TemplateSyntaxError(faults)
    return Template(pointer, node)


class _Hole(NamedTuple):
    node: Node
    text: str


@dataclass(frozen=True, slots=True)
class _Text:
    """Text with expressions in it."""

    parts: tuple[str | _Hole, ...]
    pointer: str
    references: frozenset[Reference]
    required: frozenset[Reference]

    def resolve(self, scope: Scope) -> str:
        return "".join([part if isinstance(part, str) else self._render(part, scope) for part in self.parts])

    def _render(self, hole: _Hole, scope: Scope) -> str:
        value = hole.node.resolve(scope)
        if type(value) is str:
            return value
        if value is None:
            raise TemplateError(self.pointer, hole.text, "it is null, which has no place inside text")
        try:
            if type(value) is int:
                return str(value)
            return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise TemplateError(self.pointer, hole.text, f"it cannot be written as JSON: {error}") from None


@dataclass(frozen=True, slots=True)
class _List:
    items: tuple[Node, ...]
    references: frozenset[Reference]
    required: frozenset[Reference]

    def resolve(self, scope: Scope) -> list[Any]:
        return [item.resolve(scope) for item in self.items]


@dataclass(frozen=True, slots=True)
class _Object:
    fields: tuple[tuple[str, Node], ...]
    references: frozenset[Reference]
    required: frozenset[Reference]

    def resolve(self, scope: Scope) -> dict[str, Any]:
        return {name: node.resolve(scope) for name, node in self.fields}


def _compile(value: Any, pointer: str, faults: list[Fault], depth: int) -> Node:
    if isinstance(value, str):
        return _compile_text(value, pointer, faults) if "{{" in value else Constant(value)
    if not isinstance(value, dict | list):
        return Constant(value)
    if isinstance(value, dict) and value.keys() == {"$literal"}:
        return Constant(value["$literal"])
    if depth == 0:
        faults.append(Fault(pointer, f'it is nested deeper than {DEEPEST} levels; {{"$literal": …}} may be'))
        return Constant(value)
    if isinstance(value, list):
        items = tuple(_compile(item, f"{pointer}/{at}", faults, depth - 1) for at, item in enumerate(value))
        return _whole(value, items) or _List(items, *_uses(items))
    fields = {name: _compile(item, f"{pointer}/{_escape(name)}", faults, depth - 1) for name, item in value.items()}
    nodes = tuple(fields.values())
    return _whole(value, nodes) or _Object(tuple(fields.items()), *_uses(nodes))


def _compile_text(text: str, pointer: str, faults: list[Fault]) -> Node:
    parts: list[str | _Hole] = []
    try:
        for piece in pieces(text):
            if piece.kind == "text":
                parts.append(piece.text)
            elif (node := compile_node(piece.text, pointer, faults)) is not None:
                parts.append(_Hole(node, piece.text.strip()))
    except Unreadable as unreadable:
        hint = 'braces as text are written {"$literal": "…"}'
        faults.append(Fault(pointer, f"`{shorten(text)}`: {unreadable}; {hint}"))
    nodes = [part.node for part in parts if isinstance(part, _Hole)]
    if len(parts) == 1 and nodes:
        return nodes[0]
    return _Text(tuple(parts), pointer, *_uses(nodes))


def _whole(value: Any, nodes: tuple[Node, ...]) -> Constant | None:
    """``value`` as one constant, if nothing in it varies: so resolving never walks it."""
    if not all(isinstance(node, Constant) for node in nodes):
        return None
    constants = [node.resolve(Scope()) for node in nodes]
    return Constant(dict(zip(value, constants, strict=True)) if isinstance(value, dict) else constants)


def _uses(nodes: list[Node] | tuple[Node, ...]) -> tuple[frozenset[Reference], frozenset[Reference]]:
    return (
        NOTHING.union(*(node.references for node in nodes)),
        NOTHING.union(*(node.required for node in nodes)),
    )


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")

"""The text between the braces, compiled."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from perdure_engine.faults import Fault
from perdure_engine.templates.cel_errors import is_panic, syntax
from perdure_engine.templates.cel_package import compile_cel
from perdure_engine.templates.errors import TemplateSyntaxError, shorten
from perdure_engine.templates.lexer import LIMIT, Token, Unreadable, pieces, tokens
from perdure_engine.templates.nodes import Cel, Constant, Default, Node, PlainPath
from perdure_engine.templates.paths import LITERALS, Path, Reference, look, read_path
from perdure_engine.templates.rewrite import HELPERS, rewrite
from perdure_engine.templates.scope import Scope


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression, compiled. Two with the same text are equal."""

    text: str
    pointer: str = field(compare=False)
    node: Node = field(compare=False, repr=False)

    def evaluate(self, scope: Scope) -> Any:
        """Its value. Raises TemplateError."""
        return self.node.resolve(scope)

    @property
    def references(self) -> frozenset[Reference]:
        """Every path it uses, as far as its text tells."""
        return self.node.references

    @property
    def required(self) -> frozenset[Reference]:
        """The paths that may not be missing: those that neither ``default`` nor ``has`` asks after."""
        return self.node.required


def compile_expression(text: str, pointer: str) -> Expression:
    """Compiles the expression of a ``when`` or ``where``; braces around the whole of it are allowed.

    Raises TemplateSyntaxError.
    """
    faults: list[Fault] = []
    try:
        node = compile_node(_unbraced(text), pointer, faults)
    except Unreadable as unreadable:
        raise TemplateSyntaxError([Fault(pointer, f"`{shorten(text)}`: {unreadable}")]) from None
    if node is None:
        raise TemplateSyntaxError(faults)
    return Expression(text, pointer, node)


def compile_node(text: str, pointer: str, faults: list[Fault]) -> Node | None:
    """Compiles one expression; what is wrong with it is added to ``faults``, and None comes back."""
    source = text.strip()
    clauses = _unfit(source)
    shown = shorten(source or "{{}}")
    if not clauses:
        try:
            return _literal(source) or _compile(source, pointer, faults)
        except Unreadable as unreadable:
            clauses = [str(unreadable)]
    faults += [Fault(pointer, f"`{shown}`: {clause}") for clause in clauses]
    return None


def _unfit(source: str) -> list[str]:
    if not source:
        return ['there is nothing in it; braces as text are written {"$literal": "{{}}"}']
    if len(source) > LIMIT:
        return [f"it has {len(source):,} characters, and {LIMIT:,} are allowed"]
    return []


def _compile(source: str, pointer: str, faults: list[Fault]) -> Node | None:
    parts = tokens(source)
    path = _whole_path(source, parts)
    if path is not None:
        return _plain(path, pointer)
    default = _split_default(source, parts)
    if default is not None:
        path, rest = default
        otherwise = compile_node(rest, pointer, faults)
        if otherwise is None:
            return None
        references = otherwise.references | {path.reference}
        return Default(path, pointer, otherwise, references, otherwise.required)
    return _cel(source, parts, pointer)


def _plain(path: Path, pointer: str) -> PlainPath:
    if path.reference[0] == "secrets" and len(path.reference) != 2:
        raise Unreadable("a secret is written secrets.NAME")
    references = frozenset({path.reference})
    return PlainPath(path, pointer, references, references)


def _cel(source: str, parts: Sequence[Token], pointer: str) -> Node:
    rewritten = rewrite(source, parts)
    if rewritten.faults:
        raise Unreadable("; ".join(rewritten.faults))
    try:
        program = compile_cel(rewritten.text)
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        clause = syntax(error)
        for binding in reversed(rewritten.bindings):
            clause = clause.replace(binding.name, binding.path.text)
        raise Unreadable(clause) from None
    references = frozenset(binding.path.reference for binding in rewritten.bindings)
    required = frozenset(
        binding.path.reference
        for binding in rewritten.bindings
        if binding.role != "present" and binding.path not in rewritten.optional
    )
    helped = any(name in rewritten.text for name in HELPERS)
    return Cel(source, pointer, program, tuple(rewritten.bindings), helped, references, required)


def _whole_path(source: str, parts: Sequence[Token]) -> Path | None:
    if parts[0].kind != "name" or parts[0].text in LITERALS or look(parts, 1).text == "(":
        return None
    path, after = read_path(source, parts, 0)
    return path if after == len(parts) else None


def _split_default(source: str, parts: Sequence[Token]) -> tuple[Path, str] | None:
    """The path and the other value, if the whole expression is one ``default(path, value)``."""
    head = [token.text for token in parts[:2]]
    if head != ["default", "("] or look(parts, 2).kind != "name" or not _takes_two(parts):
        return None
    path, after = read_path(source, parts, 2)
    if parts[after].text != ",":
        return None
    return path, source[parts[after].end : parts[-1].start]


def _takes_two(parts: Sequence[Token]) -> bool:
    """Whether the bracket at 1 holds two arguments and closes at the very end."""
    depth = commas = 0
    for at in range(1, len(parts)):
        if parts[at].text in ("(", "[", "{"):
            depth += 1
        elif parts[at].text in (")", "]", "}"):
            depth -= 1
        elif parts[at].text == "," and depth == 1:
            commas += 1
        if depth == 0:
            return commas == 1 and at == len(parts) - 1
    return False


def _literal(source: str) -> Constant | None:
    """A JSON literal, exact where CEL's would not be (integers beyond 64 bits)."""
    try:
        value = json.loads(source, parse_constant=_refuse, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError):
        return None
    return Constant(value)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


def _unbraced(text: str) -> str:
    source = text.strip()
    if not source.startswith("{{"):  # no expression of CEL's begins so
        return text
    found = list(pieces(source))
    if len(found) > 1:
        raise Unreadable("an expression has no braces, or one pair around the whole of it")
    return found[0].text

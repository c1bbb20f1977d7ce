"""An expression to CEL that is exact, repeatable and small.

Every plain path becomes a variable, found by our own code: so CEL is handed what the expression uses and no more, a
missing field names what there is, and any field name will do. Beyond that the text is changed only where the CEL
package is wrong, unrepeatable or slow (tried, 0.10): ``size`` counts a text's bytes, a map is walked in random order,
and ``map`` and ``filter`` copy what they have at every element (10,000 objects: a minute). They become ``all``, which
does not, around a function that collects: ``list.all(x, __collect(0, x.id)).__collected(0)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal, NamedTuple

from perdure_engine.templates.lexer import Token
from perdure_engine.templates.paths import LITERALS, Path, look, read_path

SIZE = "__size"
EACH = "__each"
COLLECT = "__collect"
KEEP = "__keep"
COLLECTED = "__collected"
HELPERS = (SIZE, EACH, COLLECT, KEEP, COLLECTED)
"""Functions the rewritten text may call; whoever runs it gives them."""

MACROS = frozenset({"all", "exists", "exists_one", "filter", "map"})
_DATES = ("Date", "DayOfMonth", "DayOfWeek", "DayOfYear", "FullYear", "Hours", "Milliseconds", "Minutes", "Month")
METHODS = frozenset(
    {"contains", "endsWith", "matches", "size", "startsWith", "getSeconds", *(f"get{part}" for part in _DATES), *MACROS}
)
FUNCTIONS = frozenset({"bytes", "default", "double", "duration", "has", "int", "size", "string", "timestamp", "uint"})
"""All pure. What is not named here is refused, so that a newer CEL package cannot bring in a clock."""

DEEPEST = 24
LONGEST = 250
"""Brackets in brackets and operators in all: CEL recurses natively, and past these a thread's stack of 512 KiB ends
the whole process."""

_OPERATORS = frozenset(
    {"+", "-", "*", "/", "%", "<", "<=", ">", ">=", "==", "!=", "&&", "||", "?", "!", ".", "[", "in"}
)
_CLOSED_BY = {"(": ")", "[": "]", "{": "}"}
_KEYWORDS = LITERALS | {"in"}

Role = Literal["value", "present", "each"]


class Binding(NamedTuple):
    """A variable of the rewritten text: a path's value, whether it is there, or it as a list to go through."""

    name: str
    path: Path
    role: Role


class _Bracket(NamedTuple):
    closing: str
    variable: str | None = None
    """The name a macro binds inside."""
    closed: str = ")"
    """What is put for its closing."""
    comma: str = ""
    """What is wrong with a comma in it, if anything is."""


@dataclass(slots=True)
class Rewritten:
    """An expression in CEL, and what its variables stand for. ``faults`` are clauses; with any, do not compile it."""

    text: str = ""
    bindings: list[Binding] = field(default_factory=list)
    optional: set[Path] = field(default_factory=set)
    """The paths that may be missing, under `default` and `has`."""
    faults: list[str] = field(default_factory=list)


def rewrite(source: str, tokens: Sequence[Token]) -> Rewritten:
    """Rewrites an expression for CEL."""
    return _Rewriter(source, tokens).run()


class _Rewriter:
    """Goes through the tokens once; ``_at`` is the next one, ``_copied`` how much of the source is dealt with, and
    ``_listed`` the dot before a macro whose list is a variable, looked over before CEL sees it."""

    def __init__(self, source: str, tokens: Sequence[Token]) -> None:
        self._source = source
        self._tokens = tokens
        self._at = 0
        self._listed = -1
        self._collected = 0
        self._copied = 0
        self._text: list[str] = []
        self._open: list[_Bracket] = []
        self._names: dict[tuple[Path, Role], str] = {}
        self._result = Rewritten()

    def run(self) -> Rewritten:
        if sum(token.text in _OPERATORS for token in self._tokens if token.kind in ("symbol", "name")) > LONGEST:
            self._fault(f"it has more than {LONGEST} operators")
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            if token.kind == "name":
                self._name(token)
            elif token.kind == "symbol":
                self._symbol(token)
            else:
                self._literal(token)
        self._put(len(self._source), len(self._source), "")
        self._result.text = "".join(self._text)
        return self._result

    def _literal(self, token: Token) -> None:
        """A text or a number; in `items.0` it is a slip that CEL would not explain."""
        self._at += 1
        if token.text.startswith(".") and self._at > 1 and self._tokens[self._at - 2].end == token.start:
            self._fault(f"an element of a list is written [{token.text[1:]}], not {token.text}")

    def _symbol(self, token: Token) -> None:
        self._at += 1
        if token.text in _CLOSED_BY:
            self._enter(_Bracket(_CLOSED_BY[token.text], closed=_CLOSED_BY[token.text]))
        elif token.text in (")", "]", "}") and self._open:
            bracket = self._open.pop()
            if bracket.closed != bracket.closing:
                self._put(token.start, token.end, bracket.closed)
        elif token.text == "," and self._open and self._open[-1].comma:
            self._fault(self._open[-1].comma)
        elif token.text == "." and self._at == 1:
            self._fault("it begins with a `.`")

    def _name(self, token: Token) -> None:
        called = look(self._tokens, self._at + 1).text == "("
        if look(self._tokens, self._at - 1).text == ".":
            if called:
                self._method(token)
            else:
                self._selector(token)
        elif called:
            self._function(token)
        elif token.text in _KEYWORDS or token.text in self._bound():
            self._at += 1
        elif look(self._tokens, self._at + 1).text == "{":
            self._fault(f'`{token.text}{{…}}` is a message, and there are none; an object is written {{"key": value}}')
            self._at += 1
        else:
            self._path()

    def _selector(self, token: Token) -> None:
        """A field of something computed. CEL cannot parse `.in` and its like; an index means the same."""
        self._at += 1
        if token.text in _KEYWORDS:
            self._put(self._tokens[self._at - 2].start, token.end, f'["{token.text}"]')

    def _method(self, token: Token) -> None:
        self._known(token, METHODS)
        self._at += 2
        if token.text in MACROS:
            self._macro(token)
            return
        if token.text == "size":
            self._put(token.start, token.end, SIZE)
        self._enter(_Bracket(")"))

    def _macro(self, token: Token) -> None:
        dot = self._at - 3
        if dot != self._listed:
            self._put(self._tokens[dot].start, self._tokens[dot].start, f".{EACH}()")
        variable, comma = look(self._tokens, self._at), look(self._tokens, self._at + 1)
        usage = f"`{token.text}` takes a name and one expression: input.items.{token.text}(x, x.ready)"
        if self._bound():
            self._fault(f"`{token.text}` stands inside another macro: one pass over one list is all an expression has")
        if variable.kind != "name" or comma.text != ",":
            self._fault(usage)
            self._enter(_Bracket(")"))
            return
        if variable.text.startswith("__"):
            self._fault(f"a macro's variable may not begin with `__`, as `{variable.text}` does")
        self._at += 2
        self._enter(_Bracket(")", variable.text, self._collect(token, variable, comma), usage))

    def _collect(self, macro: Token, variable: Token, comma: Token) -> str:
        """Begins the collecting that `map` and `filter` become; what closes it comes back."""
        if macro.text not in ("map", "filter"):
            return ")"
        number = self._collected
        self._collected += 1
        self._put(macro.start, macro.end, "all")
        call = f"{COLLECT}({number}, " if macro.text == "map" else f"{KEEP}({number}, {variable.text}, "
        self._put(comma.end, comma.end, f" {call}")
        return f")).{COLLECTED}({number})"

    def _function(self, token: Token) -> None:
        self._known(token, FUNCTIONS)
        self._at += 2
        if token.text == "has" and look(self._tokens, self._at).text not in self._bound():
            self._has(token)
        elif token.text == "default":
            self._default(token)
        else:
            if token.text == "size":
                self._put(token.start, token.end, SIZE)
            self._enter(_Bracket(")"))

    def _has(self, token: Token) -> None:
        path = self._argument(")")
        if path is None:
            self._fault('`has` takes a plain path: has(input.name), has(input["first-name"])')
            self._enter(_Bracket(")"))
            return
        self._result.optional.add(path)
        self._put(token.start, self._tokens[self._at - 1].end, self._bind(path, "present"))

    def _default(self, token: Token) -> None:
        path = self._argument(",")
        if path is None:
            self._fault('`default` takes a plain path and a value: default(input.name, "nobody")')
            self._enter(_Bracket(")"))
            return
        self._result.optional.add(path)
        test, value = self._bind(path, "present"), self._bind(path, "value")
        self._put(token.start, self._tokens[self._at - 1].end, f"({test} ? {value} : (")
        self._enter(_Bracket(")", closed="))", comma="`default` takes a path and one value"))

    def _argument(self, after: str) -> Path | None:
        """Reads a plain path and the token after it; None, and nothing read, if that is not what is there."""
        first = look(self._tokens, self._at)
        if first.kind != "name" or first.text in LITERALS | self._bound():
            return None
        path, after_path = read_path(self._source, self._tokens, self._at)
        if look(self._tokens, after_path).text != after:
            return None
        self._at = after_path + 1
        return path

    def _path(self) -> None:
        start = self._tokens[self._at].start
        path, self._at = read_path(self._source, self._tokens, self._at)
        following = [look(self._tokens, self._at + ahead).text for ahead in range(3)]
        each = following[0] == "." and following[1] in MACROS and following[2] == "("
        if each:
            self._listed = self._at
        self._put(start, self._tokens[self._at - 1].end, self._bind(path, "each" if each else "value"))

    def _bind(self, path: Path, role: Role) -> str:
        if path.reference[0] == "secrets":
            self._fault(f"`{path.text}`: a secret can be handed on, `{{{{{path.text}}}}}`, not computed with")
        name = self._names.get((path, role))
        if name is None:
            name = self._names[path, role] = f"__{len(self._names)}"
            self._result.bindings.append(Binding(name, path, role))
        return name

    def _put(self, start: int, end: int, text: str) -> None:
        """Copies the source as far as ``start``, then puts ``text`` for what stands up to ``end``."""
        self._text += (self._source[self._copied : start], text)
        self._copied = end

    def _bound(self) -> frozenset[str]:
        return frozenset(bracket.variable for bracket in self._open if bracket.variable)

    def _enter(self, bracket: _Bracket) -> None:
        self._open.append(bracket)
        if len(self._open) == DEEPEST + 1:
            self._fault(f"its brackets are nested deeper than {DEEPEST}")

    def _known(self, token: Token, names: frozenset[str]) -> None:
        if token.text in names:
            return
        near = get_close_matches(token.text, sorted(names), 1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(sorted(names))}"
        self._fault(f"there is no function `{token.text}`; {hint}")

    def _fault(self, clause: str) -> None:
        if clause not in self._result.faults:
            self._result.faults.append(clause)

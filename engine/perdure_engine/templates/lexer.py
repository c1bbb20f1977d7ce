"""Text to tokens: where an expression ends in its text, and what it is made of."""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

LIMIT = 2_000
"""Characters an expression may have: CEL has no budget of its own."""

_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<comment>//)
  | (?P<raw>(?:[bB][rR]|[rR][bB]?)(?:\"{3}[\s\S]*?\"{3}|'{3}[\s\S]*?'{3}|"[^"\n]*"|'[^'\n]*'))
  | (?P<string>[bB]?(?:\"{3}(?:\\[\s\S]|[^\\])*?\"{3}|'{3}(?:\\[\s\S]|[^\\])*?'{3}
                    |"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
  | (?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:[0-9]+\.[0-9]+|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?[uU]?)
  | (?P<name>[^\W\d]\w*)
  | (?P<symbol>&&|\|\||[=!<>]=|[-+*/%!<>?:.,()\[\]{}])
    """,
    re.VERBOSE,
)
_CLOSES = {")": "(", "]": "[", "}": "{"}


class Token(NamedTuple):
    """A piece of an expression that has a meaning."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


END = Token("end", "", -1)
"""What comes after the last token."""


class Piece(NamedTuple):
    """A part of a text: as it stands, or the expression between two pairs of braces."""

    kind: Literal["text", "expression"]
    text: str


class Unreadable(ValueError):
    """The text is not made of tokens, or its braces do not close. The message is a clause."""


def tokens(text: str) -> list[Token]:
    """The tokens of an expression. Raises Unreadable for what is none, for a comment and for an open quote."""
    found = []
    at = 0
    while at < len(text):
        token = _at(text, at, len(text))
        if token is None:
            raise Unreadable(f"{text[at]!r} at character {at + 1} means nothing in an expression")
        if token.kind == "comment":
            raise Unreadable("an expression holds no `//` comment")
        if token.kind != "space":
            found.append(token)
        at = token.end
    return found


def pieces(text: str) -> Iterator[Piece]:
    """``text`` cut at its braces, in order. Raises Unreadable for braces that do not close."""
    at = 0
    while (opened := text.find("{{", at)) >= 0:
        if opened > at:
            yield Piece("text", text[at:opened])
        closed = _closing(text, opened)
        yield Piece("expression", text[opened + 2 : closed])
        at = closed + 2
    if at < len(text):
        yield Piece("text", text[at:])


def _closing(text: str, opened: int) -> int:
    """Where the ``}}`` is that closes the ``{{`` at ``opened``: outside quotes and with no bracket open."""
    at = opened + 2
    limit = min(len(text), at + LIMIT + 2)
    brackets: list[str] = []
    while at < limit:
        if text.startswith("}}", at) and brackets[-1:] != ["{"]:
            if brackets:
                raise Unreadable(f"a `{brackets[-1]}` is still open where the `}}}}` comes")
            return at
        token = _at(text, at, limit)
        if token is None:
            at += 1
            continue
        _count(brackets, token.text)
        at = token.end
    where = "" if limit == len(text) else f" within {LIMIT:,} characters"
    raise Unreadable(f"the `{{{{` at character {opened + 1} is never closed{where}")


def _count(brackets: list[str], text: str) -> None:
    """Opens or closes a bracket; one that closes nothing is left for the expression's own check to find."""
    if text in ("(", "[", "{"):
        brackets.append(text)
    elif text in _CLOSES and brackets[-1:] == [_CLOSES[text]]:
        brackets.pop()


def _at(text: str, at: int, limit: int) -> Token | None:
    match = _TOKEN.match(text, at, limit)
    if match is not None:
        return Token(match.lastgroup or "", match.group(), at)
    if text[at] in "\"'":
        raise Unreadable(f"the quote at character {at + 1} is never closed")
    return None

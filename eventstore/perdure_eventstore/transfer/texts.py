"""JSON texts inside a line of JSON, and back byte for byte.

A text that can stand on the line as it is, does: so ``1.10`` stays ``1.10``. One that spans lines, as people write
JSON, goes as a string; bytes that are no text, as base64.
"""

import re
from typing import Final, NamedTuple

import msgspec
import orjson

NOTHING: Final = msgspec.Raw()
"""A member that is left out."""

_CONTROL: Final = re.compile(rb"[\x00-\x1f]").search
_read_raw = msgspec.json.Decoder(msgspec.Raw).decode


class Spelt(NamedTuple):
    """A text in the form it takes in a line: one of the three, or none for a text that is not there."""

    raw: msgspec.Raw = NOTHING
    text: str | None = None
    base64: bytes | None = None


_ABSENT: Final = Spelt()


def spell(text: bytes | None) -> Spelt:
    """The form ``text`` takes."""
    if text is None:
        return _ABSENT
    if _is_one_line_of_json(text):
        return Spelt(raw=msgspec.Raw(text))
    try:
        return Spelt(text=text.decode())
    except UnicodeDecodeError:
        return Spelt(base64=text)


def unspell(raw: msgspec.Raw, text: str | None = None, base64: bytes | None = None) -> bytes | None:
    """The text again. Raises ValueError where more than one form is there."""
    written = bytes(raw)
    if bool(written) + (text is not None) + (base64 is not None) > 1:
        raise ValueError("a text stands there in two forms")
    if written:
        return written
    return text.encode() if text is not None else base64


def _is_one_line_of_json(text: bytes) -> bool:
    if _CONTROL(text) or text[:1] == b" " or text[-1:] == b" ":
        return False
    try:
        # The first is strict about strings and numbers; the second is what will read it.
        orjson.loads(text)
        return bytes(_read_raw(text)) == text
    except (orjson.JSONDecodeError, msgspec.DecodeError):
        return False

"""E-mail addresses from inputs, checked before anything is sent.

The standard library's parser takes ``a@b; c@d`` for ``a@b`` and stumbles over ``a@``; a recipient lost in silence is
worse than a form refused, so this one knows the two everyday forms and nothing else of RFC 5322.
"""

import re
from collections.abc import Iterator
from email.headerregistry import Address
from typing import Final

from perdure_engine.errors import InputsInvalid
from perdure_engine.faults import Fault

Addresses = str | list[str]
"""``ada@example.org``, ``Ada <ada@example.org>``, several with commas between, or a list of those."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_ONE: Final = re.compile(
    r'\s*(?:(?P<name>"(?:[^"\\]|\\.)*"|[^<>",@]*)\s*<(?P<angle>[^<>\s",]+)>|(?P<bare>[^<>\s",]+))\s*(?:,|$)'
)
_LOCAL: Final = re.compile(r"[^\s@<>()\[\]:;,\\\".]+(\.[^\s@<>()\[\]:;,\\\".]+)*")
_DOMAIN: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.(?!-)[A-Za-z0-9-]{1,63})*")


def parse_addresses(field: str, given: Addresses | None) -> list[Address]:
    """The addresses in ``given``, domains in ASCII. Raises InputsInvalid, naming ``field``."""
    texts = [given] if isinstance(given, str) else given or []
    return [address for text in texts for address in _parse(field, text)]


def one_line(field: str, text: str) -> str:
    """``text``, unless it would begin another header. Raises InputsInvalid, naming ``field``."""
    if _CONTROL.search(text):
        raise _refused(field, "a line break or control character cannot stand in a message's header")
    return text


def _parse(field: str, text: str) -> Iterator[Address]:
    one_line(field, text)
    place = 0
    while place < len(text) or place == 0:
        found = _ONE.match(text, place)
        address = _address(found) if found else None
        if found is None or address is None:
            raise _refused(
                field, f"{text!r:.60} is not an e-mail address; write ada@example.org or Ada <ada@example.org>"
            )
        yield address
        place = found.end()


def _address(found: re.Match[str]) -> Address | None:
    name, (local, _, domain) = found["name"] or "", (found["angle"] or found["bare"]).rpartition("@")
    try:
        domain = domain.encode("idna").decode()
    except UnicodeError:
        return None
    if not _LOCAL.fullmatch(local) or not _DOMAIN.fullmatch(domain) or len(local) > 64 or len(domain) > 255:
        return None
    if name.startswith('"'):
        name = re.sub(r"\\(.)", r"\1", name.strip()[1:-1])
    return Address(name.strip(), local, domain)


def _refused(field: str, message: str) -> InputsInvalid:
    return InputsInvalid("email", [Fault(f"/{field}", message)])

"""Signed heads of the tree, in the formats of C2SP: a tlog-checkpoint in a signed note, with Ed25519.

Any tool for transparency logs can check and cosign them. A note is its text, an empty line and signature lines:

    perdure/3f0c6a52-…        the origin: which log
    1048832                   leaves in the tree
    qW3…=                     its root
    position 1048911          of the last event in it
    time 2026-01-31T12:00:00.000000Z

    — perdure/3f0c6a52-… bm90ZS…=

See https://c2sp.org/tlog-checkpoint and https://c2sp.org/signed-note.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, NamedTuple
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_ED25519: Final = b"\x01"
_KEY_ID_BYTES: Final = 4
_SIGNATURE_BYTES: Final = _KEY_ID_BYTES + 64
_SIGNS: Final = "— "
_NOTE: Final = re.compile(r"^perdure/[^\n]+\n(?:[^\n]+\n)+\n(?:— [^\n]+\n)+", re.MULTILINE)
_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


class HeadRefused(ValueError):
    """A text that is not a signed head of the log."""


class TreeHead(NamedTuple):
    """The tree as it was: ``size`` events of the log ``origin``, the last at ``position``, under ``root``."""

    origin: str
    size: int
    root: bytes
    position: int
    signed_at: datetime

    @property
    def text(self) -> str:
        """What is signed."""
        time = self.signed_at.astimezone(UTC).strftime(_TIME)
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\nposition {self.position}\ntime {time}\n"


def origin(log_id: UUID) -> str:
    """The name of a log in its heads, and of its keys."""
    return f"perdure/{log_id}"


def sign(head: TreeHead, key: Ed25519PrivateKey) -> str:
    """The signed note for ``head``."""
    signature = key_id(head.origin, key.public_key()) + key.sign(head.text.encode())
    return f"{head.text}\n{_SIGNS}{head.origin} {_base64(signature)}\n"


def read_note(note: str) -> TreeHead:
    """The head in a signed note; its signatures are not checked. Raises HeadRefused."""
    text, empty, signatures = note.partition("\n\n")
    lines = text.split("\n")
    if not empty or len(lines) != 5 or not signatures.startswith(_SIGNS) or not note.endswith("\n"):
        raise HeadRefused(f"this is not a signed head of a log of Perdure's: {note[:60]!r}")
    try:
        position, time = lines[3].removeprefix("position "), lines[4].removeprefix("time ")
        moment = datetime.strptime(time, _TIME).replace(tzinfo=UTC)
        head = TreeHead(lines[0], int(lines[1]), b64decode(lines[2], validate=True), int(position), moment)
    except ValueError as error:
        raise HeadRefused(f"the head that begins with {lines[0][:60]!r} cannot be read: {error}") from error
    if not any(_signatures(head.origin, signatures)):
        raise HeadRefused(f"the head that begins with {lines[0][:60]!r} bears no signature of the log's")
    if head.text != text + "\n":
        raise HeadRefused(f"the head that begins with {lines[0][:60]!r} is not written as heads are")
    return head


def is_signed_by(note: str, key: Ed25519PublicKey) -> bool:
    """Whether the note bears a signature of the log's under ``key`` that is right."""
    text, _, signatures = note.partition("\n\n")
    name = text.partition("\n")[0]
    for signature in _signatures(name, signatures):
        if signature[:_KEY_ID_BYTES] == key_id(name, key):
            try:
                key.verify(signature[_KEY_ID_BYTES:], f"{text}\n".encode())
            except InvalidSignature:
                continue
            return True
    return False


def _signatures(name: str, lines: str) -> Iterator[bytes]:
    """What ``name`` signed with, among all who did: the key's id and the signature."""
    for line in lines.splitlines():
        signer, _, encoded = line.removeprefix(_SIGNS).rpartition(" ")
        if signer == name:
            with suppress(ValueError):
                signature = b64decode(encoded, validate=True)
                if len(signature) == _SIGNATURE_BYTES:
                    yield signature


def split_notes(text: str) -> Iterator[str]:
    """The notes of a file to which they were appended, one after another.

    What is no head is passed over: one that was torn by a power cut, say.
    """
    for found in _NOTE.finditer(text):
        try:
            read_note(found[0])
        except HeadRefused:
            continue
        yield found[0]


def key_id(name: str, key: Ed25519PublicKey) -> bytes:
    """The four bytes by which a note says which key signed it."""
    return sha256(name.encode() + b"\n" + _ED25519 + key.public_bytes_raw()).digest()[:_KEY_ID_BYTES]


def verifier_key(name: str, key: Ed25519PublicKey) -> str:
    """The key in the form that tools for signed notes take: ``name+id+key``."""
    return f"{name}+{key_id(name, key).hex()}+{_base64(_ED25519 + key.public_bytes_raw())}"


def _base64(data: bytes) -> str:
    return b64encode(data).decode()

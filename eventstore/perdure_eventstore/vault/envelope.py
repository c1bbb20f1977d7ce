"""The frame in which an encrypted payload is stored.

    kind (1 byte)  flags (1)  nonce (12)  AES-256-GCM's ciphertext and its tag (16)

The associated data are kind and flags, the stream and the version, so that a frame can be read in its own place only.
The payload digest covers the frame, as it covers whatever bytes are stored.
"""

import os
import zlib
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from perdure_eventstore.vault.errors import VaultError
from perdure_eventstore.vault.frame import KIND, place

COMPRESS_ABOVE: Final = 1024
"""Bytes: ciphertext cannot be compressed by Postgres any more, so what is longer is compressed before."""

_COMPRESSED: Final = 1
_NONCE: Final = 12
_BODY: Final = 2 + _NONCE


def seal(cipher: AESGCM, stream: UUID, version: int, payload: bytes) -> bytes:
    """``payload`` of the event at ``version`` of ``stream``, as a frame."""
    flags = 0
    if len(payload) > COMPRESS_ABOVE and len(smaller := zlib.compress(payload)) < len(payload):
        payload, flags = smaller, _COMPRESSED
    header, nonce = bytes((KIND, flags)), os.urandom(_NONCE)
    return header + nonce + cipher.encrypt(nonce, payload, _place(header, stream, version))


def unseal(cipher: AESGCM, stream: UUID, version: int, frame: bytes) -> bytes:
    """The payload in ``frame``. Raises VaultError where it was sealed with another key, elsewhere, or was changed."""
    header, nonce = frame[:2], frame[2:_BODY]
    if len(frame) < _BODY or header[0] != KIND or header[1] & ~_COMPRESSED:
        raise VaultError(f"{place(stream, version)} is in a form that this version of Perdure does not know")
    try:
        payload = cipher.decrypt(nonce, frame[_BODY:], _place(header, stream, version))
    except InvalidTag:
        raise VaultError(
            f"{place(stream, version)} cannot be decrypted with the stream's key: "
            "it was changed, moved, or encrypted with another key"
        ) from None
    return zlib.decompress(payload) if header[1] & _COMPRESSED else payload


def _place(header: bytes, stream: UUID, version: int) -> bytes:
    return header + stream.bytes + version.to_bytes(8, "big")

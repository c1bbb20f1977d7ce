"""Hash v1: each event's hash covers the one before it, so that a stream is a chain.

The format is final; tests/unit/test_hashing.py holds its test vectors.

SHA-256 over length-prefixed fields (four bytes, big-endian), in this order: the format's name, the previous hash
(empty for the first), stream, version, id, type, schema version, recorded_at in µs since 1970, the SHA-256 of the
data text and of the metadata text, the payload digest (empty for none). Integers are eight bytes, big-endian.
``event_hash_v1`` in the migrations is its twin in SQL.
"""

from functools import lru_cache
from hashlib import sha256
from struct import Struct
from typing import Final

SALT_BYTES: Final = 16

_length = Struct("!i").pack
_FORMAT: Final = _length(16) + b"perdure.event.v1"
_EMPTY: Final = _length(0)
_32: Final = _length(32)
# Fields of a known length, each behind it, many in one call.
_place = Struct("!i16siqi16s").pack
_schema = Struct("!iq").pack
_digests = Struct("!iqi32si32s").pack


@lru_cache(maxsize=1024)
def metadata_digest(metadata: bytes) -> bytes:
    """SHA-256 of a metadata text; a node's events nearly all carry the same."""
    return sha256(metadata).digest()


@lru_cache(maxsize=1024)
def _kind(type_: bytes, schema_version: int) -> bytes:
    """The fields of an event's type and schema version; there are few of them."""
    return _length(len(type_)) + type_ + _schema(8, schema_version)


def event_hash(
    previous: bytes | None,
    stream: bytes,
    version: int,
    event_id: bytes,
    type_: bytes,
    schema_version: int,
    recorded_at: int,
    data: bytes,
    metadata: bytes,
    payload_digest: bytes | None,
) -> bytes:
    """The hash of an event; ``recorded_at`` is in µs since 1970, ids are their 16 bytes."""
    return sha256(
        b"".join(
            (
                _FORMAT,
                _32 + previous if previous else _EMPTY,
                _place(16, stream, 8, version, 16, event_id),
                _kind(type_, schema_version),
                _digests(8, recorded_at, 32, sha256(data).digest(), 32, metadata_digest(metadata)),
                _32 + payload_digest if payload_digest else _EMPTY,
            )
        )
    ).digest()  # fmt: skip


def payload_digest(salt: bytes, payload: bytes) -> bytes:
    """SHA-256 of a random 16-byte salt and the payload, so that an erased payload cannot be found by guessing."""
    return sha256(salt + payload).digest()

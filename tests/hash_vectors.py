"""The test vectors of hash v1, for Python and SQL alike.

They were made with neither: the bytes were written out by hand, field for field, and hashed by coreutils' sha256sum.
Hash v1 is final, so a vector never changes.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EventVector(NamedTuple):
    """What ``event_hash`` takes, in its order, and what it answers."""

    previous: bytes | None
    stream: UUID
    version: int
    id: UUID
    type: str
    schema_version: int
    recorded_at: datetime
    data: str
    metadata: str
    payload_digest: bytes | None
    hash: bytes

    @property
    def microseconds(self) -> int:
        return (self.recorded_at - EPOCH) // timedelta(microseconds=1)


STREAM = UUID("019a0000-0000-7000-8000-0000000000a1")
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)

SALT = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
PAYLOAD = b'{"user_email": "ada@example.org", "n": 1.10}'
DIGEST = bytes.fromhex("58dcb50ebe3fbe43956250e0b4544890e5a57bb6a1d8dfc8a0fde239c366d2cc")
DIGEST_OF_NOTHING = bytes.fromhex("5ac6a5945f16500911219129984ba8b387a06f24fe383ce4e81a73294065461b")

# The first vector's bytes, each field behind its length.
FIRST_BYTES = bytes.fromhex(
    "00000010 706572647572652e6576656e742e7631"  # perdure.event.v1
    "00000000"  # no event before it
    "00000010 019a00000000700080000000000000a1"  # stream
    "00000008 0000000000000001"  # version
    "00000010 019a00000000400080000000000000b1"  # id
    "0000000a 52756e53746172746564"  # RunStarted
    "00000008 0000000000000001"  # schema version
    "00000008 0006475ef6574f35"  # 1767323045678901 µs
    "00000020 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # SHA-256 of {}
    "00000020 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # SHA-256 of {}
    "00000000"  # no payload
)

EVENTS = [
    EventVector(
        None, STREAM, 1, UUID("019a0000-0000-4000-8000-0000000000b1"), "RunStarted", 1, MOMENT, "{}", "{}", None,
        bytes.fromhex("4292ac50e1d211a340161e9b5595a2ddc645463e59348d6015fc32c74fb289db"),
    ),
    EventVector(
        bytes.fromhex("4292ac50e1d211a340161e9b5595a2ddc645463e59348d6015fc32c74fb289db"), STREAM, 2,
        UUID("019a0000-0000-4000-8000-0000000000b2"), "Überraschung", 7, MOMENT + timedelta(microseconds=1),
        '{"task": "größe 😀", "x" : 1.10}', '{"node":"n1"}', DIGEST,
        bytes.fromhex("d49a6c554a14a365e93f771c61a0ffd574c1e1a7725508df6448fb4a3974b76a"),
    ),
    EventVector(
        b"\xff" * 32, UUID(int=2**128 - 1), 2**31 - 1, UUID(int=0), "", 2**15 - 1, EPOCH - timedelta(microseconds=1),
        r'"\u0000"', "[]", bytes(32),
        bytes.fromhex("d04316181ce16a2679254581596c5895f1f8d899b6437ea202b3fd33db9c2c7d"),
    ),
]  # fmt: skip

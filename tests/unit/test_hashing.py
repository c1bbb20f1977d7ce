"""Hash v1 in Python. tests/integration/test_hashing_sql.py holds SQL to the same vectors."""

from hashlib import sha256
from typing import Any

import pytest
from hash_vectors import DIGEST, DIGEST_OF_NOTHING, EVENTS, FIRST_BYTES, PAYLOAD, SALT, EventVector

from perdure_eventstore.hashing import event_hash, payload_digest


def hash_of(vector: EventVector) -> bytes:
    return event_hash(
        vector.previous, vector.stream.bytes, vector.version, vector.id.bytes, vector.type.encode(),
        vector.schema_version, vector.microseconds, vector.data.encode(), vector.metadata.encode(),
        vector.payload_digest,
    )  # fmt: skip


def test_the_first_vector_is_the_sha_256_of_its_fields_written_out() -> None:
    assert sha256(FIRST_BYTES).digest() == EVENTS[0].hash


@pytest.mark.parametrize("vector", EVENTS, ids=["first", "second", "extremes"])
def test_an_event_hashes_to_its_vector(vector: EventVector) -> None:
    assert hash_of(vector).hex() == vector.hash.hex()


def test_a_payload_digests_to_its_vector() -> None:
    assert payload_digest(SALT, PAYLOAD).hex() == DIGEST.hex()
    assert payload_digest(b"\xff" * 16, b"").hex() == DIGEST_OF_NOTHING.hex()


@pytest.mark.parametrize(
    "change",
    [
        {"previous": b"\x01" * 32},
        {"stream": EVENTS[2].stream},
        {"version": 3},
        {"id": EVENTS[0].id},
        {"type": "Überraschunh"},
        {"schema_version": 8},
        {"recorded_at": EVENTS[0].recorded_at},
        {"data": EVENTS[1].data.replace("1.10", "1.1")},
        {"metadata": '{"node": "n1"}'},
        {"payload_digest": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_hash_covers_every_field(change: dict[str, Any]) -> None:
    assert hash_of(EVENTS[1]._replace(**change)) != EVENTS[1].hash


def test_what_moves_from_one_field_to_the_next_changes_the_hash() -> None:
    vector = EVENTS[1]
    assert hash_of(vector._replace(data="{}1", metadata="2")) != hash_of(vector._replace(data="{}", metadata="12"))

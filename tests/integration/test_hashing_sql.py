"""Hash v1 in SQL is its twin in Python."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hash_vectors import DIGEST, DIGEST_OF_NOTHING, EVENTS, PAYLOAD, SALT, EventVector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure_eventstore.hashing import event_hash, payload_digest

pytestmark = pytest.mark.every_postgres

CALL = "select perdure.event_hash_v1(%s, %s, %s::int, %s, %s, %s::smallint, %s, %s, %s, %s)"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def scalar(connection: psycopg.Connection[Any], call: str, *parameters: Any) -> Any:
    row = connection.execute(call.encode(), parameters).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("vector", EVENTS, ids=["first", "second", "extremes"])
def test_an_event_hashes_to_its_vector(connection: psycopg.Connection[Any], vector: EventVector) -> None:
    assert scalar(connection, CALL, *vector[:-1]).hex() == vector.hash.hex()


def test_a_payload_digests_to_its_vector(connection: psycopg.Connection[Any]) -> None:
    call = "select perdure.payload_digest_v1(%s, %s)"
    assert scalar(connection, call, SALT, PAYLOAD).hex() == DIGEST.hex()
    assert scalar(connection, call, b"\xff" * 16, b"").hex() == DIGEST_OF_NOTHING.hex()


def test_the_hash_does_not_depend_on_the_sessions_settings(connection: psycopg.Connection[Any]) -> None:
    for setting in (
        "timezone = 'Asia/Kathmandu'",
        "extra_float_digits = 0",
        "bytea_output = 'escape'",
        "intervalstyle = 'sql_standard'",
    ):
        connection.execute(f"set {setting}".encode())
    assert scalar(connection, CALL, *EVENTS[1][:-1]) == EVENTS[1].hash


digests = st.none() | st.binary(min_size=32, max_size=32)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
# Postgres keeps microseconds; the years are those of both.
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
vectors = st.builds(
    EventVector, digests, st.uuids(), st.integers(1, 2**31 - 1), st.uuids(), texts, st.integers(0, 2**15 - 1), moments,
    texts, texts, digests, st.just(b""),
)  # fmt: skip


@given(vector=vectors, salt=st.binary(min_size=16, max_size=16), payload=st.binary(max_size=300))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_any_event_hashes_the_same_in_both(
    connection: psycopg.Connection[Any], vector: EventVector, salt: bytes, payload: bytes
) -> None:
    expected = event_hash(
        vector.previous, vector.stream.bytes, vector.version, vector.id.bytes, vector.type.encode(),
        vector.schema_version, vector.microseconds, vector.data.encode(), vector.metadata.encode(),
        vector.payload_digest,
    )  # fmt: skip
    assert scalar(connection, CALL, *vector[:-1]) == expected
    assert scalar(connection, "select perdure.payload_digest_v1(%s, %s)", salt, payload) == payload_digest(
        salt, payload
    )

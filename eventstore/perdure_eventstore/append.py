"""One call of ``append_batch``: what waits, packed as arrays, sent, and each append's answer."""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from os import urandom
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
from psycopg import AsyncConnection

from perdure_eventstore import arrays
from perdure_eventstore.clock import Clock
from perdure_eventstore.errors import AppendRefused, ClockDrift, domain_error
from perdure_eventstore.events import Head, NewEvent
from perdure_eventstore.hashing import SALT_BYTES, event_hash, payload_digest

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VERSION_4 = [bytes([0x40 | nibble]) for nibble in range(16)] * 16
_VARIANT = [bytes([0x80 | (byte & 0x3F)]) for byte in range(256)]


class Append(msgspec.Struct, frozen=True):
    """Events for one stream, expected to end at ``expected``. All of them are recorded, or none."""

    stream: UUID
    expected: Head
    events: Sequence[NewEvent]
    companion: Any = None
    """Rows of a layer above that must commit with these events; see ``Statement``."""
    announce: bool = False
    """Other processes should look soon: they are sent a hint."""
    in_the_clear: bool = False
    """Nothing private: where there is a vault, these payloads are not encrypted all the same."""

    def __post_init__(self) -> None:
        if not self.events:
            raise ValueError(f"the append to stream {self.stream} has no events")


class Appended(NamedTuple):
    """Where an append landed: the stream's new head and the position of each event."""

    head: Head
    positions: Sequence[int]


class Statement:
    """The statement that appends. A layer above may wrap ``append_batch`` in a function that takes more.

    Its own parameters go first, and its first three answers are those of ``append_batch``.
    """

    def __init__(self, schema: str = "perdure") -> None:
        self.sql = f'select * from "{schema}".append_batch({", ".join(["%s"] * 15)})'

    def parameters(self, batch: Sequence[Append]) -> list[Any]:
        """What goes before the parameters of ``append_batch``."""
        return []


def draw_ids(count: int) -> list[bytes]:
    """As many random UUIDs (version 4), as their 16 bytes."""
    noise = urandom(16 * count)
    return [
        noise[i : i + 6] + _VERSION_4[noise[i + 6]] + noise[i + 7 : i + 8] + _VARIANT[noise[i + 8]]
        + noise[i + 9 : i + 16]
        for i in range(0, 16 * count, 16)
    ]  # fmt: skip


class Batch:
    """Appends packed for one call. Ids and salts are drawn once, so that sending it again appends the same events."""

    def __init__(self, appends: Sequence[Append]) -> None:
        self.appends = appends
        # In the order of streams, so that concurrent batches meet in one order and never wait in a circle.
        self.order = sorted(range(len(appends)), key=lambda i: appends[i].stream.int)
        self.size = sum(len(append.events) for append in appends)
        self._drawn = draw_ids(self.size)
        self._salts = urandom(SALT_BYTES * self.size)
        self.first_ids: list[bytes] = [b""] * len(appends)
        self.heads: list[Head] = [Head(0, None)] * len(appends)

    def columns(self, recorded_at: int) -> list[arrays.Array]:
        """The arrays after ``recorded_at``, hashes included (they cover it, so a new time means new hashes)."""
        streams: list[bytes] = []
        owners: list[int] = []
        versions: list[int] = []
        ids: list[bytes] = []
        types: list[bytes] = []
        schemas: list[int] = []
        data: list[bytes] = []
        metadata: list[bytes] = []
        payloads: list[bytes | None] = []
        salts: list[bytes | None] = []
        digests: list[bytes | None] = []
        hashes: list[bytes] = []
        n = 0
        for place, index in enumerate(self.order, 1):
            append = self.appends[index]
            stream = append.stream.bytes
            streams.append(stream)
            version, previous = append.expected
            for event in append.events:
                version += 1
                id_ = self._drawn[n] if event.id is None else event.id.bytes
                payload, salt, digest = event.payload, None, None
                if payload is not None:
                    salt = self._salts[n * SALT_BYTES : (n + 1) * SALT_BYTES]
                    digest = payload_digest(salt, payload)
                type_ = event.type.encode()
                previous = event_hash(
                    previous, stream, version, id_, type_, event.schema_version, recorded_at, event.data,
                    event.metadata, digest,
                )  # fmt: skip
                owners.append(place)
                versions.append(version)
                ids.append(id_)
                types.append(type_)
                schemas.append(event.schema_version)
                data.append(event.data)
                metadata.append(event.metadata)
                payloads.append(payload)
                salts.append(salt)
                digests.append(digest)
                hashes.append(previous)
                n += 1
            self.first_ids[index] = ids[n - len(append.events)]
            self.heads[index] = Head(version, previous)
        expected = [self.appends[i].expected for i in self.order]
        return [
            arrays.uuids(streams),
            arrays.integers(head.version for head in expected),
            arrays.byteas([head.hash for head in expected]),
            arrays.integers(owners),
            arrays.integers(versions),
            arrays.uuids(ids),
            arrays.texts(types),
            arrays.smallints(schemas),
            arrays.texts(data),
            arrays.texts(metadata),
            arrays.byteas(payloads),
            arrays.byteas(salts),
            arrays.byteas(digests),
            arrays.byteas(hashes),
        ]

    def answers(self, lost: Sequence[int] | None, positions: Sequence[int] | None) -> list[Appended | None]:
        """Each append's answer, in the order given; None for the losers of a conflict."""
        answers: list[Appended | None] = [None] * len(self.appends)
        losers, n = set(lost or ()), 0
        for place, index in enumerate(self.order, 1):
            if place not in losers:
                count = len(self.appends[index].events)
                answers[index] = Appended(self.heads[index], (positions or ())[n : n + count])
                n += count
        return answers


async def send(
    connection: AsyncConnection[Any], statement: Statement, batch: Batch, clock: Clock
) -> list[Appended | None]:
    """Append ``batch`` on ``connection``, in its open transaction or, where it is in autocommit, in one of its own.

    Returns each append's answer, None for those whose stream had moved on. Raises LogError.
    """
    for corrected in (False, True):
        sent, recorded_at = clock.local(), clock.now()
        ordered = [batch.appends[i] for i in batch.order]
        try:
            columns = batch.columns(recorded_at)
        except (ValueError, struct.error) as error:
            raise AppendRefused(f"an event cannot be packed: {error}") from error
        parameters = [*statement.parameters(ordered), _EPOCH + timedelta(microseconds=recorded_at), *columns]
        try:
            cursor = await connection.execute(statement.sql, parameters, prepare=True, binary=True)
            row = await cursor.fetchone()
        except psycopg.Error as error:
            refused = domain_error(error)
            if isinstance(refused, ClockDrift) and not corrected and not connection.info.transaction_status:
                await read_clock(connection, clock)
                continue
            raise refused from error
        assert row is not None
        lost, positions, now = row[:3]
        clock.correct(_microseconds(now), sent, clock.local())
        return batch.answers(lost, positions)
    raise AssertionError("unreachable")


async def read_clock(connection: AsyncConnection[Any], clock: Clock) -> None:
    """Ask the database what time it is."""
    sent = clock.local()
    row = await (await connection.execute("select clock_timestamp()")).fetchone()
    assert row is not None
    clock.correct(_microseconds(row[0]), sent, clock.local())


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)

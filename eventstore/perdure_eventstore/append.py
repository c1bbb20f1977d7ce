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
from perdure_eventstore.clock import POSTGRES_EPOCH, Clock
from perdure_eventstore.errors import AppendRefused, ClockDrift, domain_error
from perdure_eventstore.events import Head, NewEvent
from perdure_eventstore.hashing import SALT_BYTES, event_hash, payload_digest
from perdure_eventstore.prepared import Prepared

PARAMETERS = 17
"""How many ``append_batch`` takes."""

MOST_INLINE = 8192
"""Bytes of payload that lie beside their event; the function in the migrations has the same number."""

_timestamp = struct.Struct("!q").pack
_moment = struct.Struct("!q").unpack
_TRUE, _FALSE = b"\1", b"\0"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VERSION_4 = bytes([0x40 | byte & 0x0F for byte in range(256)])
_VARIANT = bytes([0x80 | byte & 0x3F for byte in range(256)])
"""What becomes of the bytes of a random UUID that say that it is one."""


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


class Together(msgspec.Struct, frozen=True):
    """Appends to different streams that are recorded all, or none."""

    appends: tuple[Append, ...]

    def __post_init__(self) -> None:
        if not self.appends:
            raise ValueError("a group of appends is empty")
        if len({append.stream for append in self.appends}) < len(self.appends):
            raise ValueError("two appends of one group are for the same stream; put their events into one")

    @property
    def announce(self) -> bool:
        """Whether one of them is to be announced."""
        return any(append.announce for append in self.appends)


Entry = Append | Together
"""What is recorded whole or not at all."""


class Appended(NamedTuple):
    """Where an append landed: the stream's new head and the position of each event."""

    head: Head
    positions: Sequence[int]


class Statement:
    """The statement that appends. A layer above may wrap ``append_batch`` in a function that takes more.

    Its own parameters go first, and it answers ``lost``, ``positions`` and ``clock`` as well. Where the append is a
    transaction of its own, a procedure around that function is called, which commits.
    """

    def __init__(self, schema: str = "perdure") -> None:
        self._call(schema, "append_batch", "commit_batch", 0)

    def _call(self, schema: str, function: str, procedure: str, own: int) -> None:
        count = own + PARAMETERS
        places = ", ".join([f"${place}" for place in range(1, count + 1)])
        self.prepared = Prepared(
            f'call "{schema}".{procedure}({places}, null, null, null)',
            count,
            inside=f'select lost, positions, clock from "{schema}".{function}({places})',
        )

    def parameters(self, batch: Sequence[Append]) -> list[bytes | None]:
        """What goes before the parameters of ``append_batch``, in Postgres' binary form."""
        return []


def draw_ids(count: int) -> list[bytes]:
    """As many random UUIDs (version 4), as their 16 bytes."""
    noise = bytearray(urandom(16 * count))
    noise[6::16] = noise[6::16].translate(_VERSION_4)
    noise[8::16] = noise[8::16].translate(_VARIANT)
    drawn = bytes(noise)
    return [drawn[i : i + 16] for i in range(0, 16 * count, 16)]


class Batch:
    """Appends packed for one call. Ids and salts are drawn once, so that sending it again appends the same events."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.appends = appends = flat(entries)
        # In the order of streams, so that concurrent batches meet in one order and never wait in a circle.
        self.order = sorted(range(len(appends)), key=lambda i: appends[i].stream.int)
        self.size = sum([len(append.events) for append in appends])
        self._groups = None if len(appends) == len(entries) else _groups(entries)
        self._drawn = draw_ids(self.size)
        self._salts = urandom(SALT_BYTES * self.size)
        self.first_ids: list[bytes] = [b""] * len(appends)
        self.heads: list[Head] = [Head(0, None)] * len(appends)
        self.losers: set[int] = set()
        """Of the last answers, the appends whose stream had moved on; their company is not among them."""

    def parameters(self, recorded_at: int) -> list[bytes | None]:
        """What ``append_batch`` takes, in Postgres' binary form.

        Hashes included: they cover ``recorded_at`` (µs since 1970), so a new time means new ones.
        """
        rows: list[_Row] = []
        for place, index in enumerate(self.order, 1):
            self._pack(rows, place, index, recorded_at)
        owners, versions, ids, types, schemas, data, metadata, payloads, salts, digests, hashes = zip(
            *rows, strict=True
        )
        ordered = [self.appends[i] for i in self.order]
        large = any([payload is not None and len(payload) > MOST_INLINE for payload in payloads])
        groups = None if self._groups is None else arrays.integers([self._groups[i] for i in self.order])
        return [
            _timestamp(recorded_at - POSTGRES_EPOCH),
            _TRUE if large else _FALSE,
            arrays.uuids([append.stream.bytes for append in ordered]),
            arrays.integers([append.expected.version for append in ordered]),
            arrays.byteas([append.expected.hash for append in ordered]),
            groups,
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
            arrays.hashes(hashes),
        ]

    def _pack(self, rows: "list[_Row]", place: int, index: int, recorded_at: int) -> None:
        """Add the events of one append, each with its hash."""
        append = self.appends[index]
        stream = append.stream.bytes
        version, previous = append.expected
        first = n = len(rows)
        for event in append.events:
            version += 1
            id_ = self._drawn[n] if event.id is None else event.id.bytes
            payload, salt, digest = event.payload, None, None
            if payload is not None:
                salt = self._salts[n * SALT_BYTES : (n + 1) * SALT_BYTES]
                digest = payload_digest(salt, payload)
            type_, schema, data, metadata = event.type.encode(), event.schema_version, event.data, event.metadata
            previous = event_hash(
                previous, stream, version, id_, type_, schema, recorded_at, data, metadata, digest
            )  # fmt: skip
            rows.append((place, version, id_, type_, schema, data, metadata, payload, salt, digest, previous))
            n += 1
        self.first_ids[index] = rows[first][2]
        self.heads[index] = Head(version, previous)

    def answers(self, lost: Sequence[int], positions: Sequence[int]) -> list[Appended | None]:
        """Each append's answer, in the order given; None for the losers of a conflict, and for their company."""
        answers: list[Appended | None] = [None] * len(self.appends)
        self.losers = left_out = {self.order[place - 1] for place in lost}
        if left_out and (groups := self._groups) is not None:
            broken = {groups[loser] for loser in left_out}
            left_out = {i for i, group in enumerate(groups) if group in broken}
        n = 0
        for index in self.order:
            if index not in left_out:
                count = len(self.appends[index].events)
                answers[index] = Appended(self.heads[index], positions[n : n + count])
                n += count
        return answers


_Row = tuple[int, int, bytes, bytes, int, bytes, bytes, bytes | None, bytes | None, bytes | None, bytes]
"""An event as ``append_batch`` takes it: the place of its append, version, id, …, hash."""


def flat(entries: Sequence[Entry]) -> Sequence[Append]:
    """The appends of all entries."""
    appends: list[Append] = []
    for entry in entries:
        if isinstance(entry, Together):
            appends += entry.appends
        else:
            appends.append(entry)
    return appends


def _groups(entries: Sequence[Entry]) -> list[int]:
    """Of each append, the number of the entry it belongs to."""
    return [n for n, entry in enumerate(entries) for _ in (entry.appends if isinstance(entry, Together) else (entry,))]


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
            parameters = [*statement.parameters(ordered), *batch.parameters(recorded_at)]
        except (ValueError, struct.error) as error:
            raise AppendRefused(f"an event cannot be packed: {error}") from error
        try:
            result = await statement.prepared.execute(connection, parameters)
        except psycopg.Error as error:
            refused = domain_error(error)
            if isinstance(refused, ClockDrift) and not corrected and not connection.info.transaction_status:
                await read_clock(connection, clock)
                continue
            raise refused from error
        lost, positions, now = (result.get_value(0, column) for column in range(3))
        clock.correct(_moment(now or b"")[0] + POSTGRES_EPOCH, sent, clock.local())
        return batch.answers(arrays.unpack(lost), arrays.unpack(positions))
    raise AssertionError("unreachable")


async def read_clock(connection: AsyncConnection[Any], clock: Clock) -> None:
    """Ask the database what time it is. Raises LogError."""
    sent = clock.local()
    try:
        row = await (await connection.execute("select clock_timestamp()")).fetchone()
    except psycopg.Error as error:
        raise domain_error(error) from error
    assert row is not None
    clock.correct(_microseconds(row[0]), sent, clock.local())


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)

"""Import: the events of an export into another log, all of a file or nothing of it.

They draw new positions, in the old order, and keep all else: ids, times, hashes. What is there already is passed over,
so importing a file again does nothing. The database checks every hash and every link as the events go in.

One transaction takes a whole file: a run of which only the beginning were there would be taken up by a node, and a
published event without the record of its routing would be routed anew. Readers of the log wait for its commit;
writers do not.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Final, NamedTuple

import psycopg
from psycopg import AsyncConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore import arrays
from perdure_eventstore.clock import POSTGRES_EPOCH
from perdure_eventstore.database import raw_connection
from perdure_eventstore.errors import Raced, domain_error
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.prepared import Prepared
from perdure_eventstore.transfer.entry import Entry, TransferRefused, microseconds
from perdure_eventstore.transfer.frame import Header
from perdure_eventstore.transfer.lines import Line, Lines, export_lines

MAX_EVENTS: Final = 1_000
MAX_BYTES: Final = 16 * 1024 * 1024
"""Of payload in one statement, unless one event alone has more."""

_PARAMETERS: Final = 12
"""How many ``import_batch`` takes."""


class Imported(NamedTuple):
    """What an import did; ``streams`` are those that began, ``skipped`` the events that were there already."""

    log: str
    events: int
    streams: int
    skipped: int


class Companion:
    """The statement that imports. A layer above may wrap ``import_batch`` in a function that takes more.

    Its own parameters go first, and its answer is that of ``import_batch``.
    """

    def __init__(self, schema: str = "perdure") -> None:
        self.schema = schema
        self._call("import_batch", 0)

    def _call(self, function: str, own: int) -> None:
        count = own + _PARAMETERS
        places = ", ".join([f"${place}" for place in range(1, count + 1)])
        self.prepared = Prepared(f'select positions from "{self.schema}".{function}({places})', count)

    def parameters(self, events: Sequence[RecordedEvent]) -> list[bytes | None]:
        """What goes before the parameters of ``import_batch``, in Postgres' binary form. Raises TransferRefused."""
        return []

    async def finish(self, connection: AsyncConnection[Any], first: int) -> None:
        """Called before the commit, if there were new events: ``first`` is the lowest of their positions."""


async def import_file(
    engine: AsyncEngine,
    file: BinaryIO,
    companion: Companion,
    progress: Callable[[int], object] = lambda events: None,
) -> Imported:
    """Import what ``file`` holds, uncompressed; it should not be slow, for the log's readers wait for its end.

    ``progress`` is told how many events went in. Raises TransferRefused, and then nothing is imported; LogError.
    """
    lines = export_lines(file)
    async with raw_connection(engine) as connection:
        importer = _Importer(connection, companion)
        try:
            async with connection.transaction():
                await _import_batches(importer, _Batches(lines, companion), progress)
                if importer.first is not None:
                    await companion.finish(connection, importer.first)
        except psycopg.Error as error:
            raise domain_error(error) from error
    return Imported(lines.header.log, importer.events, importer.streams, importer.skipped)


async def _import_batches(importer: "_Importer", batches: "_Batches", progress: Callable[[int], object]) -> None:
    """One batch after another; the next is read and packed while the database has the last."""
    batch = await asyncio.to_thread(batches.next)
    while batch is not None:
        following = asyncio.ensure_future(asyncio.to_thread(batches.next))
        try:
            await importer.send(batch)
        finally:
            # A thread cannot be stopped, and it reads the file; what it found counts only if this went well.
            await asyncio.wait([following])
            following.exception()
        progress(importer.events + importer.skipped)
        batch = following.result()


class _Batch(NamedTuple):
    """Lines, and what they are in the statement."""

    lines: Sequence[Line[Entry]]
    parameters: Sequence[Any]


class _Batches:
    """What goes in one statement."""

    def __init__(self, lines: Lines[Header, Entry], companion: Companion) -> None:
        self._lines, self._companion = iter(lines), companion
        self._left: Line[Entry] | None = None
        self._refused: TransferRefused | None = None

    def next(self) -> _Batch | None:
        """The next; None at the end. Raises TransferRefused."""
        taken = list(self._take())
        if not taken:
            if self._refused is not None:
                raise self._refused
            return None
        events = [line.entry.event for line in taken]
        try:
            return _Batch(taken, [*self._companion.parameters(events), *_columns(events)])
        except TransferRefused as error:
            raise TransferRefused(error.reason, taken[(error.line or 1) - 1].number) from error

    def _take(self) -> Iterator[Line[Entry]]:
        count = size = 0
        while (line := self._left or self._next()) is not None:
            payload = line.entry.event.payload
            size += len(payload) if payload is not None else 0
            if count and (count == MAX_EVENTS or size > MAX_BYTES):
                self._left = line
                return
            self._left = None
            count += 1
            yield line

    def _next(self) -> Line[Entry] | None:
        # What is wrong with the file here may follow from an earlier line: the database has its say on those first.
        try:
            return None if self._refused else next(self._lines, None)
        except TransferRefused as error:
            self._refused = error
            return None


class _Importer:
    """Sends batches in the open transaction, and counts."""

    def __init__(self, connection: AsyncConnection[Any], companion: Companion) -> None:
        self._connection, self._companion = connection, companion
        self.events = self.streams = self.skipped = 0
        self.first: int | None = None

    async def send(self, batch: _Batch) -> None:
        """Import ``batch``. Raises TransferRefused, LogError."""
        try:
            result = await self._companion.prepared.execute(self._connection, batch.parameters)
        except psycopg.Error as error:
            raise _refusal(error, batch.lines) from error
        for line, position in zip(batch.lines, arrays.unpack_bigints(result.get_value(0, 0) or b""), strict=True):
            if position is None:
                self.skipped += 1
                continue
            self.events += 1
            self.streams += line.entry.event.version == 1
            if self.first is None:
                self.first = position


def _refusal(error: psycopg.Error, batch: Sequence[Line[Entry]]) -> Exception:
    message, place = error.diag.message_primary or str(error), error.diag.message_detail
    if error.sqlstate == "PD010" and place is not None:
        return TransferRefused(message, batch[int(place) - 1].number)
    refused = domain_error(error)
    if isinstance(refused, Raced):
        return TransferRefused("somebody else appended to one of these streams just now; import again", batch[0].number)
    if error.sqlstate is not None and error.sqlstate.startswith(("22", "23")):
        return TransferRefused(f"{message} (this line, or one of the {len(batch) - 1} after it)", batch[0].number)
    return refused


def _columns(events: Sequence[RecordedEvent]) -> list[bytes]:
    return [
        arrays.uuids([event.stream.bytes for event in events]),
        arrays.integers(event.version for event in events),
        arrays.uuids([event.id.bytes for event in events]),
        arrays.texts([event.type.encode() for event in events]),
        arrays.smallints(event.schema_version for event in events),
        arrays.timestamps(microseconds(event.recorded_at) - POSTGRES_EPOCH for event in events),
        arrays.texts([event.data for event in events]),
        arrays.texts([event.metadata for event in events]),
        arrays.byteas([event.payload for event in events]),
        arrays.byteas([event.payload_salt for event in events]),
        arrays.byteas([event.payload_digest for event in events]),
        arrays.byteas([event.hash for event in events]),
    ]

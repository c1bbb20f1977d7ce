"""The check of the chain: does every event still hash to what was recorded, each after the one before it?"""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import AsyncConnection

from perdure_eventstore.errors import domain_error
from perdure_eventstore.events import NO_STREAM, Head, RecordedEvent
from perdure_eventstore.hashing import event_hash, payload_digest

_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_BATCH = 2_000


class Fault(NamedTuple):
    """An event that is not what was recorded."""

    position: int
    stream: UUID
    version: int
    type: str
    reason: str

    def __str__(self) -> str:
        return f"position {self.position} ({self.type}, stream {self.stream}, version {self.version}): {self.reason}"


class Progress(NamedTuple):
    """How far a check has come."""

    events: int
    streams: int
    fault: Fault | None = None


def check_event(event: RecordedEvent, previous: Head) -> Fault | None:
    """Say what is wrong with ``event`` as the one after ``previous``; None if nothing is."""
    reason = None
    if event.version != previous.version + 1:
        reason = f"version {previous.version + 1} is missing before it"
    elif why := _payload_fault(event):
        reason = why
    elif event.hash != _hash(event, previous.hash):
        reason = "its hash does not match: it, or its place in the stream, was changed"
    return Fault(event.position, event.stream, event.version, event.type, reason) if reason else None


def _payload_fault(event: RecordedEvent) -> str | None:
    payload, salt, digest = event.payload, event.payload_salt, event.payload_digest
    if digest is None:
        return None if payload is None and salt is None else "it has a payload where none was recorded"
    if payload is None or salt is None:
        # Erasure takes both, and leaves the digest.
        return None if payload is salt else f"its payload's {'text' if payload is None else 'salt'} is missing"
    return None if payload_digest(salt, payload) == digest else "its payload was changed"


def _hash(event: RecordedEvent, previous: bytes | None) -> bytes:
    moment = event.recorded_at - _EPOCH
    return event_hash(
        previous,
        event.stream.bytes,
        event.version,
        event.id.bytes,
        event.type.encode(),
        event.schema_version,
        (moment.days * 86_400 + moment.seconds) * 1_000_000 + moment.microseconds,
        event.data,
        event.metadata,
        event.payload_digest,
    )


async def verify(
    connection: AsyncConnection[Any], schema: str = "perdure", stream: UUID | None = None
) -> AsyncIterator[Progress]:
    """Check every chain, or that of ``stream``; yields as it goes, and stops at the first fault.

    ``connection`` returns json as written (``database.raw_connection``). Raises LogError.
    """
    columns = ", ".join(f"e.{name}" for name in RecordedEvent._fields if name != "payload")
    statement = f"""select {columns.replace("e.payload_salt", "coalesce(e.payload, p.payload), e.payload_salt")}
        from "{schema}".events e left join "{schema}".payloads p on p.stream = e.stream and p.version = e.version
            and e.payload is null and e.payload_digest is not null
        where %s::uuid is null or e.stream = %s order by e.stream, e.version"""
    events, streams, current, head = 0, 0, None, NO_STREAM
    try:
        async with connection.transaction(), connection.cursor("perdure_verify", binary=True) as cursor:
            await cursor.execute(statement, (stream, stream))
            while rows := await cursor.fetchmany(_BATCH):
                for event in map(RecordedEvent._make, rows):
                    if event.stream != current:
                        current, head, streams = event.stream, NO_STREAM, streams + 1
                    if fault := check_event(event, head):
                        yield Progress(events, streams, fault)
                        return
                    head, events = event.head, events + 1
                yield Progress(events, streams)
    except psycopg.Error as error:
        raise domain_error(error) from error

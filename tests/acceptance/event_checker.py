"""A judge of single events that shares nothing with ``perdure verify`` but the hash."""

from datetime import datetime

from perdure_eventstore.checking.faults import (
    HASH_WRONG,
    PAYLOAD_CHANGED,
    PAYLOAD_GIVEN,
    SALT_MISSING,
    TEXT_MISSING,
    Fault,
    missing_before,
)
from perdure_eventstore.events import Head, RecordedEvent
from perdure_eventstore.hashing import event_hash, payload_digest

_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def check_event(event: RecordedEvent, previous: Head) -> Fault | None:
    """Say what is wrong with ``event`` as the one after ``previous``; None if nothing is."""
    reason = None
    if event.version != previous.version + 1:
        reason = missing_before(previous.version + 1)
    elif why := _payload_fault(event):
        reason = why
    elif event.hash != _hash(event, previous.hash):
        reason = HASH_WRONG
    return Fault(event.position, event.stream, event.version, event.type, reason) if reason else None


def _payload_fault(event: RecordedEvent) -> str | None:
    payload, salt, digest = event.payload, event.payload_salt, event.payload_digest
    if digest is None:
        return None if payload is None and salt is None else PAYLOAD_GIVEN
    if payload is None or salt is None:
        # Erasure takes both, and leaves the digest.
        return None if payload is salt else TEXT_MISSING if payload is None else SALT_MISSING
    return None if payload_digest(salt, payload) == digest else PAYLOAD_CHANGED


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

"""An event on its way between logs, and what is wrong with one that cannot be taken."""

from datetime import UTC, datetime
from typing import Final, NamedTuple

from perdure_eventstore.errors import LogError
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.hashing import event_hash, payload_digest

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class TransferRefused(LogError):
    """A file that cannot be read as what it should be, or events the log cannot take. Nothing was written.

    ``line`` is the number of the line at fault, from 1; None where no single line is.
    """

    def __init__(self, reason: str, line: int | None = None) -> None:
        self.reason, self.line = reason, line
        super().__init__(f"line {line}: {reason}" if line else reason)


class Entry(NamedTuple):
    """An event as a log held it, and the hash of the one before it in its stream."""

    event: RecordedEvent
    previous: bytes | None


def microseconds(moment: datetime) -> int:
    """µs since 1970."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def fault_in(entry: Entry) -> str | None:
    """Say what is wrong with ``entry`` by itself: its hash, its payload's digest. None if nothing is."""
    event = entry.event
    payload, salt, digest = event.payload, event.payload_salt, event.payload_digest
    if (payload is None) is not (salt is None) or (payload is not None and digest is None):
        return "its payload and what was recorded of it do not belong together"
    if payload is not None and salt is not None and payload_digest(salt, payload) != digest:
        return "its payload was changed"
    if (event.version == 1) is not (entry.previous is None):
        return "the first event of a stream has none before it, and every other one has"
    found = event_hash(
        entry.previous,
        event.stream.bytes,
        event.version,
        event.id.bytes,
        event.type.encode(),
        event.schema_version,
        microseconds(event.recorded_at),
        event.data,
        event.metadata,
        digest,
    )
    return None if found == event.hash else "its hash does not match: it was changed"

"""An event before it is recorded, and after."""

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import msgspec


class Head(NamedTuple):
    """Where a stream ends: the version of its last event (0: none yet) and that event's hash."""

    version: int
    hash: bytes | None


NO_STREAM: Final = Head(0, None)
"""The head of a stream that does not exist yet."""


class NewEvent(msgspec.Struct, frozen=True):
    """An event to append. The texts are JSON in UTF-8, stored and hashed byte for byte as they are here."""

    type: str
    data: bytes = b"{}"
    """The engine's own facts, in the clear."""
    payload: bytes | None = None
    """What users gave or got: can be encrypted and erased without breaking the chain."""
    metadata: bytes = b"{}"
    schema_version: int = 1
    id: UUID | None = None
    """Give one to make the event idempotent within its stream; None draws one."""


class RecordedEvent(NamedTuple):
    """An event as the log holds it."""

    position: int
    recorded_at: datetime
    stream: UUID
    version: int
    schema_version: int
    id: UUID
    type: str
    data: bytes
    metadata: bytes
    payload: bytes | None
    """None with a ``payload_digest``: erased, or large and not asked for."""
    payload_salt: bytes | None
    payload_digest: bytes | None
    hash: bytes

    @property
    def head(self) -> Head:
        """The stream's head once this is its last event."""
        return Head(self.version, self.hash)

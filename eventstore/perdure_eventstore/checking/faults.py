"""What the check of the log finds: a fault, and the event it is about."""

from typing import Final, NamedTuple
from uuid import UUID

HASH_WRONG: Final = "its hash does not match: it, or its place in the stream, was changed"
NO_VALUE: Final = "one of its fields is null, or infinite"
PAYLOAD_CHANGED: Final = "its payload was changed"
PAYLOAD_GIVEN: Final = "it has a payload where none was recorded"
TEXT_MISSING: Final = "its payload's text is missing"
SALT_MISSING: Final = "its payload's salt is missing"
NOT_ERASED: Final = "its payload is missing and no erasure is recorded"


class Fault(NamedTuple):
    """Something that is not as it was recorded. Of an event that is gone, only the position is known; of a row of the
    tree or of a head, not even that."""

    position: int | None
    stream: UUID | None
    version: int | None
    type: str | None
    reason: str

    def __str__(self) -> str:
        if self.position is None:
            return self.reason
        if self.stream is None:
            return f"position {self.position}: {self.reason}"
        return f"position {self.position} ({self.type}, stream {self.stream}, version {self.version}): {self.reason}"


def missing_before(version: int) -> str:
    """The reason where ``version`` is not there."""
    return f"version {version} is missing before it"


def fault_of(reason: str) -> Fault:
    """A fault that is not of an event."""
    return Fault(None, None, None, None, reason)

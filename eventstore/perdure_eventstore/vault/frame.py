"""How a payload that is encrypted is told from one that is not, without a vault."""

from typing import Final
from uuid import UUID

from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.vault.errors import VaultError

KIND: Final = 1
"""The first byte of a frame. It lies below 0x20 and is no white space: no JSON text begins with it."""


def is_frame(payload: bytes | None) -> bool:
    """Whether a stored payload is encrypted."""
    return payload is not None and payload[:1] == b"\x01"


def refuse_frames(events: list[RecordedEvent]) -> list[RecordedEvent]:
    """The events as they are, for whoever has no vault. Raises VaultError where one is needed."""
    for event in events:
        payload = event.payload
        if payload and payload[0] == KIND:
            raise VaultError(
                f"{place(event.stream, event.version)} is encrypted: set PERDURE_ENCRYPTION_MASTER_KEY, "
                "and PERDURE_ENCRYPTION_STORE, as the program that wrote it has them"
            )
    return events


def place(stream: UUID, version: int) -> str:
    """How an error names a payload."""
    return f"the payload of version {version} of stream {stream}"

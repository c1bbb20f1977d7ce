"""A run's events as the log keeps them, and back."""

from typing import Any, get_args

from perdure_engine.event_codec import Codecs
from perdure_engine.run.events import RunEvent
from perdure_eventstore.events import NewEvent, RecordedEvent

_CODECS = Codecs(get_args(RunEvent))

EVENT_TYPES: dict[str, type[Any]] = _CODECS.types
"""Every event type of a run by its name in the log."""


def encode(event: RunEvent, metadata: bytes) -> NewEvent:
    """``event`` as an event to append."""
    return _CODECS.encode(event, metadata)


def decode(recorded: RecordedEvent) -> RunEvent:
    """The event that was recorded, old versions as today's. Raises UnreadableEvent for a type that no run has."""
    event: RunEvent = _CODECS.decode(recorded)
    return event

"""A run's events as the log keeps them, and back.

The engine's facts become ``data``; fields of type Json become the members of ``payload``, spliced in as written.
"""

from typing import Any, get_args, get_type_hints

import msgspec
from msgspec.structs import replace

from perdure_engine.run.events import RunEvent
from perdure_eventstore.door import NULL, Json
from perdure_eventstore.events import NewEvent, RecordedEvent

_encode = msgspec.json.Encoder().encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Codec:
    """The codec of one event type."""

    def __init__(self, event_type: type[Any]) -> None:
        hints = get_type_hints(event_type)
        self.decode_data = msgspec.json.Decoder(event_type).decode
        self.payload_fields = tuple(
            name for name, hint in hints.items() if hint is Json or Json in get_args(hint)
        )  # fmt: skip
        # A payload field at its default is left out of the data by omit_defaults.
        self.blank = {name: NULL if hints[name] is Json else None for name in self.payload_fields}


_CODECS = {event_type.__name__: _Codec(event_type) for event_type in get_args(RunEvent)}

EVENT_TYPES: dict[str, type[Any]] = {event_type.__name__: event_type for event_type in get_args(RunEvent)}
"""Every event type of a run by its name in the log."""


def encode(event: RunEvent, metadata: bytes) -> NewEvent:
    """``event`` as an event to append."""
    name = type(event).__name__
    codec = _CODECS[name]
    if not codec.payload_fields:
        return NewEvent(name, _encode(event), None, metadata, event.SCHEMA_VERSION)
    payload = b",".join(
        [
            b'"' + field.encode() + b'":' + value.text
            for field in codec.payload_fields
            if (value := getattr(event, field)) is not None
        ]
    )
    bare = replace(event, **codec.blank)
    return NewEvent(
        name, _encode(bare), b"{" + payload + b"}" if payload else None, metadata, event.SCHEMA_VERSION
    )  # fmt: skip


def decode(recorded: RecordedEvent) -> RunEvent:
    """The event that was recorded. Raises KeyError for a type that no run has."""
    codec = _CODECS[recorded.type]
    event: RunEvent = codec.decode_data(recorded.data)
    if recorded.payload is None:
        return event
    members = {name: Json(bytes(raw)) for name, raw in _members(recorded.payload).items()}
    return replace(event, **members)

"""An event type as the log keeps it, and back.

The engine's facts become ``data``. What users gave or got becomes the members of ``payload``: fields of type Json,
spliced in as written, and those marked as ``PayloadText``. One that was erased reads as null.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_type_hints
from uuid import UUID

import msgspec
from msgspec.structs import replace

from perdure_engine.upcasting import UnreadableEvent, upcast
from perdure_eventstore.door import NULL, Json
from perdure_eventstore.events import NewEvent, RecordedEvent

PAYLOAD = msgspec.Meta(extra={"payload": True})
PayloadText = Annotated[str | None, PAYLOAD]
"""A text that users gave: it travels in the payload, and can be erased with it."""

_encode = msgspec.json.Encoder().encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str | None).decode
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""The escape of U+0000, and not that of a backslash before a "u0000"."""


class Codec:
    """Writes and reads one event type."""

    def __init__(self, event_type: type[Any]) -> None:
        self.type = event_type.__name__
        self.version: int = event_type.SCHEMA_VERSION
        hints = get_type_hints(event_type, include_extras=True)
        self.payload_fields = payload_fields(event_type)
        self._writers = [(name, b'"' + name.encode() + b'":', is_json) for name, is_json in self.payload_fields.items()]
        self._readers: dict[str, Callable[[msgspec.Raw], Any]] = {
            name: _read_json if is_json else _text for name, is_json in self.payload_fields.items()
        }
        # A payload field at its default is left out of the data by omit_defaults.
        self._blank = {name: NULL if hints[name] is Json else None for name in self.payload_fields}
        self._decode = msgspec.json.Decoder(event_type).decode

    def encode(self, event: Any, metadata: bytes, id_: UUID | None = None) -> NewEvent:
        """``event`` as an event to append."""
        if not self.payload_fields:
            return NewEvent(self.type, _encode(event), None, metadata, self.version, id_)
        payload = b",".join(
            [
                name + (value.text if is_json else _encode(value))
                for field, name, is_json in self._writers
                if (value := getattr(event, field)) is not None
            ]
        )
        text = b"{" + payload + b"}" if payload else None
        return NewEvent(self.type, _encode(replace(event, **self._blank)), text, metadata, self.version, id_)

    def check(self, data: bytes) -> None:
        """Raises ValueError for data that ``decode`` would not take."""
        self._decode(data)
        if b"\\u0000" in data and _NUL.search(data):
            raise ValueError("U+0000 cannot be kept by Postgres")

    def decode(self, recorded: RecordedEvent) -> Any:
        """The event that was recorded, brought to this version. Raises UnreadableEvent for a newer one."""
        if recorded.schema_version != self.version:
            return self._decode_old(recorded)
        event = self._decode(recorded.data)
        if recorded.payload is None:
            return event
        return self._with_payload(event, _members(recorded.payload))

    def _decode_old(self, recorded: RecordedEvent) -> Any:
        payload = {} if recorded.payload is None else _members(recorded.payload)
        data, payload = upcast(recorded, self.version, _members(recorded.data), payload)
        return self._with_payload(self._decode(_encode(data)), payload)

    def _with_payload(self, event: Any, members: dict[str, msgspec.Raw]) -> Any:
        try:
            return replace(event, **{name: self._readers[name](raw) for name, raw in members.items()})
        except KeyError as unknown:
            raise UnreadableEvent(f"{self.type} has no payload named {unknown}") from None


class Codecs:
    """Writes and reads the events of several types, each under its class' name."""

    def __init__(self, types: tuple[type[Any], ...]) -> None:
        self.types: dict[str, type[Any]] = {kind.__name__: kind for kind in types}
        self._codecs = {kind.__name__: Codec(kind) for kind in types}

    def encode(self, event: Any, metadata: bytes, id_: UUID | None = None) -> NewEvent:
        """``event`` as an event to append."""
        return self._codecs[type(event).__name__].encode(event, metadata, id_)

    def check(self, event: NewEvent) -> None:
        """Raises ValueError for an event that could not be read again."""
        self._codecs[event.type].check(event.data)

    def decode(self, recorded: RecordedEvent) -> Any:
        """The event that was recorded. Raises UnreadableEvent for one of another or a newer type."""
        if (codec := self._codecs.get(recorded.type)) is None:
            known = ", ".join(self._codecs)
            raise UnreadableEvent(
                f"event {recorded.version} of stream {recorded.stream} is a {recorded.type}, which this Perdure "
                f"does not know here; a newer one may have written it. Known here: {known}"
            )
        return codec.decode(recorded)


def payload_fields(event_type: type[Any]) -> dict[str, bool]:
    """The fields of an event type that are payload: True for any JSON value, False for a text."""
    hints = get_type_hints(event_type, include_extras=True)
    return {name: _is_json(hint) for name, hint in hints.items() if _is_payload(hint)}


def _is_json(hint: Any) -> bool:
    return hint is Json or Json in get_args(hint)


def _is_payload(hint: Any) -> bool:
    return _is_json(hint) or PAYLOAD in get_args(hint)


def _read_json(raw: msgspec.Raw) -> Json:
    return Json(bytes(raw))

"""Perdure's own lines: a header, one event a line, a trailer. All of JSON Lines, and no more than that."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.transfer.entry import Entry
from perdure_eventstore.transfer.frame import FORMAT, Header, Trailer, check_format
from perdure_eventstore.transfer.texts import NOTHING, spell, unspell

NAME: Final = "jsonl"

_encode = msgspec.json.Encoder().encode


class Record(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One event. ``data``, ``metadata`` and ``payload`` stand as they were written (see ``texts``)."""

    position: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    stream: UUID
    version: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    id: UUID
    type: str
    schema_version: Annotated[int, Meta(ge=0, le=2**15 - 1)]
    recorded_at: Annotated[datetime, Meta(tz=True)]
    data: msgspec.Raw = NOTHING
    data_text: str | None = None
    payload: msgspec.Raw = NOTHING
    payload_text: str | None = None
    payload_base64: bytes | None = None
    metadata: msgspec.Raw = NOTHING
    metadata_text: str | None = None
    salt: str | None = None
    digest: str | None = None
    previous: str | None = None
    hash: str = ""


class _Format(msgspec.Struct):
    format: int = FORMAT


_read_format = msgspec.json.Decoder(_Format).decode
_read_record = msgspec.json.Decoder(Record).decode
_read_header = msgspec.json.Decoder(Header).decode
_read_trailer = msgspec.json.Decoder(Trailer).decode


class JsonLines:
    """The form of an export's lines."""

    name = NAME

    def header(self, header: Header) -> bytes:
        """The first line."""
        return frame_line("export", header)

    def entry(self, entry: Entry) -> bytes:
        """An event's line."""
        return _encode(record_of(entry)) + b"\n"

    def trailer(self, trailer: Trailer) -> bytes:
        """The last line."""
        return frame_line("end", trailer)

    def read_header(self, line: bytes) -> Header:
        """The header. Raises ValueError for anything else."""
        if not line.startswith(b'{"perdure":"export"'):
            raise ValueError("this is not the beginning of an export")
        check_format(_read_format(line).format)
        return _read_header(line)

    def read(self, line: bytes) -> Entry | Trailer:
        """A line after the first. Raises ValueError."""
        if line.startswith(b'{"perdure":'):
            return _read_trailer(line)
        return entry_of(_read_record(line))


def record_of(entry: Entry) -> Record:
    """The event as it stands in a line."""
    event = entry.event
    data, metadata, payload = spell(event.data), spell(event.metadata), spell(event.payload)
    return Record(
        position=event.position,
        stream=event.stream,
        version=event.version,
        id=event.id,
        type=event.type,
        schema_version=event.schema_version,
        recorded_at=event.recorded_at.astimezone(UTC),
        data=data.raw,
        data_text=data.text,
        payload=payload.raw,
        payload_text=payload.text,
        payload_base64=payload.base64,
        metadata=metadata.raw,
        metadata_text=metadata.text,
        salt=_hex(event.payload_salt),
        digest=_hex(event.payload_digest),
        previous=_hex(entry.previous),
        hash=event.hash.hex(),
    )


def entry_of(record: Record) -> Entry:
    """The event again. Raises ValueError."""
    data = unspell(record.data, record.data_text)
    metadata = unspell(record.metadata, record.metadata_text)
    if data is None or metadata is None:
        raise ValueError(f"it has no {'data' if data is None else 'metadata'}")
    event = RecordedEvent(
        position=record.position,
        recorded_at=record.recorded_at,
        stream=record.stream,
        version=record.version,
        schema_version=record.schema_version,
        id=record.id,
        type=record.type,
        data=data,
        metadata=metadata,
        payload=unspell(record.payload, record.payload_text, record.payload_base64),
        payload_salt=_bytes(record.salt),
        payload_digest=_bytes(record.digest, 32),
        hash=_bytes(record.hash, 32) or b"",
    )
    return Entry(event, _bytes(record.previous, 32))


def frame_line(kind: str, struct: Any) -> bytes:
    """The line of a header or a trailer."""
    # msgspec leaves out what is at its default; the word by which the line is known must stand first.
    return b'{"perdure":"' + kind.encode() + b'",' + _encode(struct)[1:] + b"\n"


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _bytes(value: str | None, length: int | None = None) -> bytes | None:
    if value is None:
        return None
    found = bytes.fromhex(value)
    if length is not None and len(found) != length:
        raise ValueError(f"{value!r} is no hash: it has {len(found)} bytes and not {length}")
    return found

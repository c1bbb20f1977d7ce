"""The same lines as CloudEvents 1.0, each in the structured JSON form, for whatever tool knows those.

What CloudEvents has no word for goes in extension attributes; ``data`` holds the three texts as they were written.
Whole numbers beyond 32 bits are strings there, as the specification wants them.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

import msgspec
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from msgspec import Meta

from perdure_eventstore.transfer.entry import Entry
from perdure_eventstore.transfer.frame import Header, Trailer, check_format
from perdure_eventstore.transfer.record import Record, entry_of, record_of
from perdure_eventstore.transfer.texts import NOTHING

NAME: Final = "cloudevents"

_EVENT: Final = "perdure."
_HEADER: Final = "perdure-export.header"
_TRAILER: Final = "perdure-export.trailer"

_encode = msgspec.json.Encoder().encode
_write = JSONFormat().write


class _Data(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    data: msgspec.Raw = NOTHING
    data_text: str | None = None
    payload: msgspec.Raw = NOTHING
    payload_text: str | None = None
    payload_base64: bytes | None = None
    metadata: msgspec.Raw = NOTHING
    metadata_text: str | None = None


class _Line(msgspec.Struct):
    type: str
    data: msgspec.Raw


class _Event(msgspec.Struct):
    """A line as it is read. A broker on the way may have added attributes of its own."""

    specversion: str
    id: UUID
    type: str
    subject: UUID
    time: Annotated[datetime, Meta(tz=True)]
    position: str
    version: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    schemaversion: Annotated[int, Meta(ge=0, le=2**15 - 1)]
    hash: str
    data: _Data
    salt: str | None = None
    digest: str | None = None
    previous: str | None = None


_read_line = msgspec.json.Decoder(_Line).decode
_read_event = msgspec.json.Decoder(_Event).decode
_read_header = msgspec.json.Decoder(Header).decode
_read_trailer = msgspec.json.Decoder(Trailer).decode


class CloudEvents:
    """The form of an export's lines; ``source`` is the log's origin."""

    name = NAME

    def __init__(self, source: str = "") -> None:
        self._source = source

    def header(self, header: Header) -> bytes:
        """The first line."""
        return self._frame(_HEADER, header, header.exported_at)

    def entry(self, entry: Entry) -> bytes:
        """An event's line."""
        record = record_of(entry)
        attributes = {
            "id": str(record.id),
            "source": self._source,
            "type": _EVENT + record.type,
            "subject": str(record.stream),
            "time": record.recorded_at,
            "position": str(record.position),
            "version": record.version,
            "schemaversion": record.schema_version,
            "salt": record.salt,
            "digest": record.digest,
            "previous": record.previous,
            "hash": record.hash,
        }
        data = _Data(**{name: getattr(record, name) for name in _Data.__struct_fields__})
        return _line({name: value for name, value in attributes.items() if value is not None}, data)

    def trailer(self, trailer: Trailer) -> bytes:
        """The last line."""
        return self._frame(_TRAILER, trailer, datetime.now(UTC))

    def _frame(self, kind: str, frame: Header | Trailer, at: datetime) -> bytes:
        return _line({"id": str(uuid4()), "source": self._source, "type": kind, "time": at}, frame)

    def read_header(self, line: bytes) -> Header:
        """The header. Raises ValueError for anything else."""
        first = _read_line(line)
        if first.type != _HEADER:
            raise ValueError("this is not the beginning of an export")
        header = _read_header(first.data)
        check_format(header.format)
        self._source = header.log
        return header

    def read(self, line: bytes) -> Entry | Trailer:
        """A line after the first. Raises ValueError."""
        if _TRAILER.encode() in line and (found := _read_line(line)).type == _TRAILER:
            return _read_trailer(found.data)
        event = _read_event(line)
        if event.specversion != "1.0" or not event.type.startswith(_EVENT):
            raise ValueError(f"it is no event of Perdure's but a {event.type} (CloudEvents {event.specversion})")
        texts = {name: getattr(event.data, name) for name in _Data.__struct_fields__}
        return entry_of(
            Record(
                position=int(event.position),
                stream=event.subject,
                version=event.version,
                id=event.id,
                type=event.type.removeprefix(_EVENT),
                schema_version=event.schemaversion,
                recorded_at=event.time,
                salt=event.salt,
                digest=event.digest,
                previous=event.previous,
                hash=event.hash,
                **texts,
            )
        )


def _line(attributes: Mapping[str, Any], data: Any) -> bytes:
    # The package writes and checks the attributes; it would spell the data anew, so that is put in as it was written.
    envelope = _write(CloudEvent({**attributes, "datacontenttype": "application/json"}))
    return envelope[:-1] + b', "data": ' + _encode(data) + b"}\n"

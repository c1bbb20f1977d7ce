"""A bundle: one stream's events, each with the proof that it is in the log whose head is given.

It is checked with no database. A header line has the head; each event's line, as in an export, also the index of its
leaf and its path in the tree; and there is a trailer.
"""

from collections.abc import Sequence
from typing import Annotated, Final, Literal, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Meta

from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.transfer.entry import Entry
from perdure_eventstore.transfer.frame import FORMAT, Trailer, check_format
from perdure_eventstore.transfer.record import Record, entry_of, frame_line, record_of

_encode = msgspec.json.Encoder().encode


class BareHead(msgspec.Struct, frozen=True):
    """A root of the tree that nobody signed."""

    origin: str
    size: Annotated[int, Meta(ge=1)]
    root: str


class BundleHeader(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The first line: the signed head as a note and the key it was signed with, or else a root that is not signed."""

    run: UUID
    note: str | None = None
    verifier_key: str | None = None
    unsigned: BareHead | None = None
    perdure: Literal["bundle"] = "bundle"
    format: int = FORMAT


class Proof(NamedTuple):
    """Where an event's leaf is, and what leads from it to the root."""

    leaf: int
    path: Sequence[bytes]


class ProvenEntry(NamedTuple):
    """An entry, and its proof."""

    entry: Entry
    proof: Proof

    @property
    def event(self) -> RecordedEvent:
        """The event."""
        return self.entry.event


class _ProvenRecord(Record, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    leaf: Annotated[int, Meta(ge=0)]
    path: list[str]


class _Format(msgspec.Struct):
    format: int = FORMAT


_read_format = msgspec.json.Decoder(_Format).decode
_read_header = msgspec.json.Decoder(BundleHeader).decode
_read_trailer = msgspec.json.Decoder(Trailer).decode
_read_record = msgspec.json.Decoder(_ProvenRecord).decode

NAME: Final = "bundle"


class BundleLines:
    """The form of a bundle's lines."""

    def header(self, header: BundleHeader) -> bytes:
        """The first line."""
        return frame_line(NAME, header)

    def entry(self, entry: ProvenEntry) -> bytes:
        """An event's line."""
        record = record_of(entry.entry)
        fields = {name: getattr(record, name) for name in Record.__struct_fields__}
        leaf, path = entry.proof
        return _encode(_ProvenRecord(**fields, leaf=leaf, path=[step.hex() for step in path])) + b"\n"

    def trailer(self, trailer: Trailer) -> bytes:
        """The last line."""
        return frame_line("end", trailer)

    def read_header(self, line: bytes) -> BundleHeader:
        """The header. Raises ValueError for anything else."""
        if not line.startswith(b'{"perdure":"bundle"'):
            raise ValueError("this is not the beginning of a bundle")
        check_format(_read_format(line).format)
        return _read_header(line)

    def read(self, line: bytes) -> ProvenEntry | Trailer:
        """A line after the first. Raises ValueError."""
        if line.startswith(b'{"perdure":'):
            return _read_trailer(line)
        record = _read_record(line)
        return ProvenEntry(entry_of(record), Proof(record.leaf, [bytes.fromhex(step) for step in record.path]))

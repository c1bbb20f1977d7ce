"""The forms that an export's lines can have."""

from typing import Protocol, TypeVar

import msgspec

from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.transfer.entry import Entry
from perdure_eventstore.transfer.frame import Header, Trailer
from perdure_eventstore.transfer.record import JsonLines


class HasEvent(Protocol):
    """What stands in a line."""

    @property
    def event(self) -> RecordedEvent: ...


H_co = TypeVar("H_co", covariant=True)
E_co = TypeVar("E_co", covariant=True, bound=HasEvent)


class ReadForm(Protocol[H_co, E_co]):
    """How lines are read; both raise ValueError, of which msgspec.DecodeError is one."""

    def read_header(self, line: bytes) -> H_co: ...

    def read(self, line: bytes) -> E_co | Trailer: ...


class Form(ReadForm[Header, Entry], Protocol):
    """How an export's lines are written, and read."""

    name: str

    def header(self, header: Header) -> bytes: ...

    def entry(self, entry: Entry) -> bytes: ...

    def trailer(self, trailer: Trailer) -> bytes: ...


class _Kind(msgspec.Struct):
    specversion: str | None = None


_read_kind = msgspec.json.Decoder(_Kind).decode


def form_named(name: str, source: str) -> Form:
    """The form ``jsonl`` or ``cloudevents``; ``source`` is the log's origin. Raises ValueError."""
    match name:
        case "jsonl":
            return JsonLines()
        case "cloudevents":
            # The package and what it needs take a while to import.
            from perdure_eventstore.transfer.cloud_events import CloudEvents

            return CloudEvents(source)
    raise ValueError(f"an export is in jsonl or in cloudevents, not in {name!r:.60}")


def form_of(first_line: bytes) -> Form:
    """The form that a file's first line has. Raises ValueError where that is no JSON object."""
    return form_named("cloudevents" if _read_kind(first_line).specversion is not None else "jsonl", "")

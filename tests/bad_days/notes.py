"""What a process knows, a line each, in a file that outlives its kill -9."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import orjson
from log_checker import Fact, Outcome, Told

from perdure_eventstore.append import Append, Appended
from perdure_eventstore.events import Head, NewEvent, RecordedEvent

MARKER = b"Noted"
"""Goes over the wire with every such event."""


class Notes:
    """Lines of JSON, each written by one call to the kernel: a kill -9 costs the last one at most."""

    def __init__(self, file: Path | str) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, *lines: Any) -> None:
        """Add lines, in one go."""
        os.write(self._descriptor, b"".join(orjson.dumps(line) + b"\n" for line in lines))


class WriterNotes(Notes):
    """What a writer sends, and what it is told of it."""

    def __init__(self, file: Path | str) -> None:
        super().__init__(file)
        self._sent = 0

    def sent(self, append: Append, group: int = 0) -> int:
        """Note it before it goes out, and return its number. Those of one ``group`` are recorded all or none."""
        self._sent += 1
        ids = [name_of(event.data) for event in append.events]
        self.write(["sent", self._sent, monotonic(), str(append.stream), append.expected.version, ids, group])
        return self._sent

    def sent_together(self, appends: Sequence[Append]) -> list[int]:
        """Note appends that are recorded all or none, and return their numbers."""
        group = self._sent + 1
        return [self.sent(append, group) for append in appends]

    def told(self, number: int, outcome: Outcome, where: Appended | None = None) -> None:
        """Note what became of it; ``where`` for what is acknowledged."""
        self.write(["told", number, monotonic(), outcome, list(where.positions) if where else []])


def named_event(payload: bytes | None = None, *, own_id: bool) -> NewEvent:
    """An event whose data has a name by which it is known before the log has drawn an id."""
    name = uuid4()
    return NewEvent(
        MARKER.decode(), data=b'{"name": "%s"}' % str(name).encode(), payload=payload, id=name if own_id else None
    )


def named_append(stream: UUID, expected: Head, count: int, payload: bytes | None = None) -> Append:
    """An append of ``count`` such events; every other one brings its own ids along."""
    own_id = bool(stream.int & 1)
    return Append(stream, expected, [named_event(payload, own_id=own_id) for _ in range(count)], announce=count > 1)


def name_of(data: bytes) -> str:
    """What its writer calls the event."""
    name: str = orjson.loads(data).get("name", "")
    return name


def fact(event: RecordedEvent) -> Fact:
    """The event, for the checker."""
    return Fact(event.position, str(event.stream), event.version, name_of(event.data))


def lines(file: Path) -> Iterable[Any]:
    """The whole lines; the last one may have been cut off."""
    *whole, _ = file.read_bytes().split(b"\n") if file.exists() else [b""]
    return map(orjson.loads, whole)


def told_by(file: Path) -> list[Told]:
    """What the writer of these notes was told; what it was not is unknown."""
    sent: dict[int, Told] = {}
    for kind, number, moment, *what in lines(file):
        if kind == "sent":
            stream, expected, ids, group = what
            together = f"{file.stem} {group}" if group else ""
            sent[number] = Told(stream, expected, ids, "unknown", sent=moment, together=together)
        else:
            outcome, positions = what
            sent[number] = sent[number]._replace(outcome=outcome, positions=positions, heard=moment)
    return list(sent.values())


def seen_by(file: Path) -> list[Fact]:
    """What the reader of these notes has seen, in its order."""
    return [Fact._make(line) for line in lines(file)]

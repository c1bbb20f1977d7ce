"""Archive files: exports of whole streams, gzipped, which bear their name only once they are on the disk."""

import fcntl
import gzip
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast
from uuid import UUID

from perdure_eventstore.events import NO_STREAM, Head, RecordedEvent
from perdure_eventstore.folders import sync_folder
from perdure_eventstore.transfer.entry import Entry, TransferRefused, fault_in
from perdure_eventstore.transfer.frame import Tally
from perdure_eventstore.transfer.lines import export_lines
from perdure_eventstore.transfer.record import JsonLines

_LEVEL = 6


@contextmanager
def writing(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Write a file that appears whole, or not at all. One that is there already is ``locked`` meanwhile.

    Raises OSError.
    """
    # Always the same name, and emptied: of a writer that was killed nothing outlives the next one.
    part = path.with_name(f".{path.name}.part")
    plain = part.open("wb")
    try:
        with plain:
            # Without the time in its header, so that the same events make the same file.
            with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=plain, mtime=0) as packed:
                yield packed.write
            plain.flush()
            os.fsync(plain.fileno())
        part.replace(path)
    except BaseException:
        # Only here: once the file bears its name, a part file is already that of the next writer.
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """The file that bears the name ``path``, to be read; nobody else who locks it writes it anew. Raises OSError."""
    while True:
        # For writing, though nothing is: network file systems lock no other.
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever had the lock before may have put another file in its place.
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return


def entries(path: Path) -> Iterator[Entry]:
    """The events of an archive file, in order; each is right by itself. Raises TransferRefused, OSError."""
    with gzip.open(path, "rb") as file:
        for line in export_lines(cast(BinaryIO, file)):
            if fault := fault_in(line.entry):
                raise TransferRefused(f"{path}: {fault}", line.number)
            yield line.entry


def heads(path: Path) -> dict[UUID, Head]:
    """The head of each stream in the file, once every chain is found whole from its first event on.

    Raises TransferRefused, OSError.
    """
    found: dict[UUID, Head] = {}
    for entry in entries(path):
        event, before = entry.event, found.get(entry.event.stream, NO_STREAM)
        if (before.version + 1, before.hash) != (event.version, entry.previous):
            raise TransferRefused(
                f"{path}: version {event.version} of stream {event.stream} does not follow version {before.version}"
            )
        found[event.stream] = event.head
    return found


def events_of(path: Path, stream: UUID) -> list[RecordedEvent]:
    """The events of one stream, as they were stored. Raises TransferRefused, OSError."""
    return [entry.event for entry in entries(path) if entry.event.stream == stream]


def erase_in(path: Path, stream: UUID) -> int | None:
    """Write the file anew without the payloads of ``stream``; how many there were, None where it has no event of it.

    Somebody else who erases in the same file at the same time takes turns with this.
    Raises TransferRefused, OSError, and then the file is as it was.
    """
    erased, met, form = 0, False, JsonLines()
    with locked(path) as packed, gzip.open(packed, "rb") as file:
        lines = export_lines(cast(BinaryIO, file))
        with writing(path) as write:
            tally = Tally()

            def put(line: bytes) -> None:
                tally.take(line)
                write(line)

            put(form.header(lines.header))
            for _, entry in lines:
                event = entry.event
                met |= event.stream == stream
                if event.stream == stream and event.payload_salt is not None:
                    entry = entry._replace(event=event._replace(payload=None, payload_salt=None))
                    erased += 1
                put(form.entry(entry))
                tally.count(event.position, event.version)
            write(form.trailer(tally.trailer()))
    return erased if met else None

"""What stands around the events of a file: a header that says what they are, a trailer by which a cut file is found."""

from datetime import datetime
from hashlib import sha256
from typing import Final, Literal
from uuid import UUID

import msgspec

FORMAT: Final = 1
"""The format's number; a file of a higher one is refused."""

LONGEST_LINE: Final = 128 * 1024 * 1024
"""Bytes. A file that is none of ours may have no line's end at all."""


class Selection(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which events: those of ``streams``, or of all; with positions beyond ``after``, up to ``last``."""

    streams: tuple[UUID, ...] | None = None
    after: int = 0
    last: int | None = None


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first line of an export."""

    log: str
    """The origin: which log the events are from."""
    mark: int
    """Every event of the selection up to this position is there; the next export begins after it."""
    selection: Selection
    exported_at: datetime
    version: str
    """Perdure's."""
    perdure: Literal["export"] = "export"
    format: int = FORMAT


class Trailer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last line."""

    events: int
    streams: int
    """How many streams begin in the file."""
    sha256: str
    """Of every line before this one."""
    perdure: Literal["end"] = "end"


def check_format(number: int) -> None:
    """Raise ValueError for a format that is newer than this."""
    if number != FORMAT:
        raise ValueError(f"this export is of format {number}, and this Perdure reads format {FORMAT}: upgrade it")


class Tally:
    """What the trailer says, counted while lines go by."""

    def __init__(self) -> None:
        self.events = self.streams = self.position = 0
        self._digest = sha256()

    def take(self, line: bytes) -> None:
        """A line, with its end."""
        self._digest.update(line)

    def count(self, position: int, version: int) -> None:
        """An event of this position and version."""
        self.events += 1
        self.streams += version == 1
        self.position = position

    def trailer(self) -> Trailer:
        """The trailer that belongs to what went by."""
        return Trailer(self.events, self.streams, self._digest.hexdigest())

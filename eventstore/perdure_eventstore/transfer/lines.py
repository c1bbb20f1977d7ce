"""An export, read line by line: what is no whole export of Perdure's is refused, with the number of the line."""

import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Generic, NamedTuple, TypeVar

from perdure_eventstore.transfer.entry import Entry, TransferRefused
from perdure_eventstore.transfer.form import HasEvent, ReadForm, form_of
from perdure_eventstore.transfer.frame import LONGEST_LINE, Header, Tally, Trailer

H = TypeVar("H")
E = TypeVar("E", bound=HasEvent)


class Line(NamedTuple, Generic[E]):
    """An event and the number of its line, from 1."""

    number: int
    entry: E


class Lines(Generic[H, E]):
    """The lines of ``file``. Iterating ends once the trailer was read and is right; all raise TransferRefused."""

    def __init__(self, file: BinaryIO, form: Callable[[bytes], ReadForm[H, E]], what: str) -> None:
        """``form`` tells by the first line how the others are read; ``what`` they are, for people."""
        self._file, self._number = file, 0
        self._tally = Tally()
        self.header = self._header(form, what)

    @property
    def tally(self) -> Tally:
        """What went by so far."""
        return self._tally

    def __iter__(self) -> Iterator[Line[E]]:
        while True:
            line = self._next()
            if line is None:
                raise TransferRefused("the file ends here, and has no trailer: it was cut", self._number + 1)
            try:
                found = self._form.read(line)
            except ValueError as error:
                raise TransferRefused(_why(line, error), self._number) from error
            if isinstance(found, Trailer):
                self._check(found)
                return
            self._take(line, found)
            yield Line(self._number, found)

    def _header(self, form: Callable[[bytes], ReadForm[H, E]], what: str) -> H:
        line = self._next()
        if line is None:
            raise TransferRefused("the file is empty", 1)
        try:
            self._form = form(line)
            header = self._form.read_header(line)
        except ValueError as error:
            raise TransferRefused(f"no {what} of Perdure's: {error}", 1) from error
        self._tally.take(line)
        return header

    def _take(self, line: bytes, entry: E) -> None:
        position, tally = entry.event.position, self._tally
        if position <= tally.position:
            raise TransferRefused(
                f"the event of position {position} stands after that of {tally.position}: lines were moved",
                self._number,
            )
        tally.take(line)
        tally.count(position, entry.event.version)

    def _check(self, trailer: Trailer) -> None:
        expected = self._tally.trailer()
        if trailer.events != expected.events:
            raise TransferRefused(
                f"the trailer says {trailer.events} events, and {expected.events} stand before it: lines are missing",
                self._number,
            )
        if trailer != expected:
            raise TransferRefused("the lines before it are not those that the trailer was made for", self._number)
        if self._next() is not None:
            raise TransferRefused("something follows the trailer", self._number)

    def _next(self) -> bytes | None:
        """The next line; None at the end."""
        try:
            line = self._file.readline(LONGEST_LINE)
        except (EOFError, zlib.error) as error:
            raise TransferRefused(f"the compressed file is cut or damaged: {error}", self._number + 1) from error
        except OSError as error:
            raise TransferRefused(f"it cannot be read: {error}", self._number + 1) from error
        if not line:
            return None
        self._number += 1
        if not line.endswith(b"\n"):
            what = "longer than any event's" if len(line) == LONGEST_LINE else "cut short: the file was cut"
            raise TransferRefused(f"the line is {what}", self._number)
        return line


def export_lines(file: BinaryIO) -> Lines[Header, Entry]:
    """The lines of an export, in whichever form. Raises TransferRefused."""
    return Lines(file, form_of, "export")


def _why(line: bytes, error: Exception) -> str:
    return "the line is empty" if not line.strip() else str(error)

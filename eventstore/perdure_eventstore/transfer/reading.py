"""Events out of the log as they are stored, in the order of position, in bounded memory."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple

from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.session import Session
from perdure_eventstore.transfer.cut import Cut
from perdure_eventstore.transfer.entry import Entry
from perdure_eventstore.transfer.frame import Selection

_PAGE = 1_000
_MOST_BYTES = 16 * 1024 * 1024
"""Of large payloads that are in memory at once, unless one alone has more."""

_EVENT = len(RecordedEvent._fields)


class _Large(NamedTuple):
    """A payload that does not lie beside its event: the event's place among the rows, and how many bytes it has."""

    place: int
    size: int


class EntryReader:
    """Reads what a selection takes of a cut. The log is never held: it reads page by page."""

    def __init__(self, session: Session, schema: str = "perdure") -> None:
        self._session = session
        columns = ", ".join(f"e.{name}" for name in RecordedEvent._fields)
        # Look-ups, not joins: whatever Postgres knows of the tables, each is one probe of an index.
        select = f"""select {columns},
                (select b.hash from "{schema}".events b where b.stream = e.stream and b.version = e.version - 1),
                case when e.payload is null and e.payload_digest is not null then
                    (select octet_length(p.payload) from "{schema}".payloads p
                     where p.stream = e.stream and p.version = e.version) end
            from "{schema}".events e"""
        self._span = f"""{select} where e.position > %s and e.position <= %s
            order by e.position limit {_PAGE}"""
        self._chosen = f"{select} where e.position = any(%s) order by e.position"
        self._of_streams = f"""select position from "{schema}".events
            where stream = any(%s) and position > %s and position <= %s order by position"""
        self._large = f"""select w.n, p.payload
            from unnest(%s::uuid[], %s::integer[]) with ordinality as w(stream, version, n)
            join "{schema}".payloads p using (stream, version)"""

    async def read(self, cut: Cut, selection: Selection) -> AsyncIterator[list[Entry]]:
        """The events, in pages. Raises LogError."""
        last = cut.last if selection.last is None else min(selection.last, cut.last)
        if selection.streams is not None:
            found = await self._session.fetch(self._of_streams, (list(selection.streams), selection.after, last))
            beyond = set(cut.beyond)
            chosen = [position for (position,) in found if position <= cut.mark or position in beyond]
        else:
            after = selection.after
            while rows := await self._session.fetch(self._span, (after, min(last, cut.mark))):
                after = rows[-1][0]
                async for page in self._whole(rows):
                    yield page
            chosen = [position for position in cut.beyond if selection.after < position <= last]
        for first in range(0, len(chosen), _PAGE):
            rows = await self._session.fetch(self._chosen, (chosen[first : first + _PAGE],))
            async for page in self._whole(rows):
                yield page

    async def _whole(self, rows: Sequence[Any]) -> AsyncIterator[list[Entry]]:
        """The rows as events, with the large payloads that belong to them."""
        begin = 0
        for group in _groups([_Large(i, row[-1]) for i, row in enumerate(rows) if row[-1] is not None]):
            end = group[-1].place + 1
            places = [rows[large.place] for large in group]
            found = dict(
                await self._session.fetch(self._large, ([row[2] for row in places], [row[3] for row in places]))
            )
            page = [_entry(row) for row in rows[begin:end]]
            for number, large in enumerate(group, 1):
                page[large.place - begin] = _with_payload(page[large.place - begin], found.get(number))
            yield page
            begin = end
        yield [_entry(row) for row in rows[begin:]]


def _groups(all_: Sequence[_Large]) -> Iterator[list[_Large]]:
    group: list[_Large] = []
    size = 0
    for large in all_:
        if group and size + large.size > _MOST_BYTES:
            yield group
            group, size = [], 0
        group.append(large)
        size += large.size
    if group:
        yield group


def _entry(row: Sequence[Any]) -> Entry:
    return Entry(RecordedEvent._make(row[:_EVENT]), row[_EVENT])


def _with_payload(entry: Entry, payload: bytes | None) -> Entry:
    """``entry`` with its large payload; as an erased one if there is none: it was erased since the event was read."""
    event = entry.event
    salt = None if payload is None else event.payload_salt
    return entry._replace(event=event._replace(payload=payload, payload_salt=salt))

"""Reading: one stream in order, or the settled log in order."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from perdure_eventstore.events import NO_STREAM, Head, RecordedEvent
from perdure_eventstore.session import Session

_COLUMNS = ", ".join(RecordedEvent._fields)


class Reader:
    """Reads events through one session. Large payloads lie apart, and are fetched unless ``payloads`` is False."""

    def __init__(self, session: Session, schema: str = "perdure") -> None:
        self._session = session
        select = f'select {_COLUMNS} from "{schema}".events'
        self._stream = f"{select} where stream = %s and version > %s order by version limit %s"
        self._head = f'select version, hash from "{schema}".events where stream = %s order by version desc limit 1'
        self._span = f"{select} where position > %s and position <= %s order by position limit %s"
        self._types = f"{select} where position > %s and position <= %s and type = any(%s) order by position limit %s"
        self._large = f"""select n.number, p.payload from unnest(%s::uuid[], %s::integer[]) with ordinality
            n(stream, version, number) join "{schema}".payloads p using (stream, version)"""

    async def stream(
        self, stream: UUID, after: int = 0, batch: int = 1_000, *, payloads: bool = True
    ) -> AsyncIterator[RecordedEvent]:
        """The events of ``stream`` after version ``after``. A stream that does not exist has none."""
        while True:
            events = await self._fetch(self._stream, (stream, after, batch), payloads)
            for event in events:
                yield event
            if len(events) < batch:
                return
            after = events[-1].version

    async def head(self, stream: UUID) -> Head:
        """The stream's head; NO_STREAM where there is none."""
        rows = await self._session.fetch(self._head, (stream,))
        return Head(*rows[0]) if rows else NO_STREAM

    async def span(
        self,
        after: int,
        last: int,
        *,
        types: Sequence[str] | None = None,
        limit: int = 1_000,
        payloads: bool = True,
    ) -> list[RecordedEvent]:
        """At most ``limit`` events with ``after`` < position <= ``last``, in order.

        ``last`` must be settled (``SettledMark``), or events may be missing that come later.
        """
        if types is None:
            return await self._fetch(self._span, (after, last, limit), payloads)
        return await self._fetch(self._types, (after, last, list(types), limit), payloads)

    async def _fetch(self, statement: str, parameters: Sequence[Any], payloads: bool) -> list[RecordedEvent]:
        events = [*map(RecordedEvent._make, await self._session.fetch(statement, parameters))]
        if payloads:
            apart = [n for n, each in enumerate(events) if each.payload is None and each.payload_digest is not None]
            if apart:
                await self._add_large(events, apart)
        return events

    async def _add_large(self, events: list[RecordedEvent], apart: Sequence[int]) -> None:
        """Put their payloads into those of ``events`` that stand at ``apart``; an erased one stays without."""
        keys = [events[n].stream for n in apart], [events[n].version for n in apart]
        for number, payload in await self._session.fetch(self._large, keys):
            n = apart[number - 1]
            events[n] = events[n]._replace(payload=payload)

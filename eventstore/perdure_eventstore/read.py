"""Reading: one stream in order, or the settled log in order."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol
from uuid import UUID

from perdure_eventstore.events import NO_STREAM, Head, RecordedEvent
from perdure_eventstore.parts import IN_PART, Part

_COLUMNS = """e.position, e.recorded_at, e.stream, e.version, e.schema_version, e.id, e.type, e.data, e.metadata,
    coalesce(e.payload, case when e.payload_digest is not null then p.payload end), e.payload_salt, e.payload_digest,
    e.hash"""


class Source(Protocol):
    """What statements are sent through: a session of one's own, or somebody's transaction."""

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run ``statement`` and return its rows, json as bytes. Raises LogError."""


class Reader:
    """Reads events through one session."""

    def __init__(self, session: Source, schema: str = "perdure") -> None:
        self._session = session
        select = f"""select {_COLUMNS} from "{schema}".events e left join "{schema}".payloads p
            on p.stream = e.stream and p.version = e.version and e.payload is null and e.payload_digest is not null"""
        self._stream = f"{select} where e.stream = %s and e.version > %s order by e.version limit %s"
        self._head = f'select version, hash from "{schema}".events where stream = %s order by version desc limit 1'
        between, in_order = f"{select} where e.position > %s and e.position <= %s", "order by e.position limit %s"
        in_part = IN_PART.format(parts="%s", part="%s")
        self._span = f"{between} {in_order}"
        self._types = f"{between} and e.type = any(%s) {in_order}"
        self._part = f"{between} and {in_part} {in_order}"
        self._types_part = f"{between} and e.type = any(%s) and {in_part} {in_order}"

    async def stream(self, stream: UUID, after: int = 0, batch: int = 1_000) -> AsyncIterator[RecordedEvent]:
        """The events of ``stream`` after version ``after``. A stream that does not exist has none."""
        while True:
            rows = await self._fetch(self._stream, (stream, after, batch))
            for event in rows:
                yield event
            if len(rows) < batch:
                return
            after = rows[-1].version

    async def head(self, stream: UUID) -> Head:
        """The stream's head; NO_STREAM where there is none."""
        rows = await self._session.fetch(self._head, (stream,))
        return Head(*rows[0]) if rows else NO_STREAM

    async def span(
        self, after: int, last: int, *, types: Sequence[str] | None = None, part: Part | None = None, limit: int = 1_000
    ) -> list[RecordedEvent]:
        """At most ``limit`` events with ``after`` < position <= ``last``, in order; ``part`` is that of their streams.

        ``last`` must be settled (``SettledMark``), or events may be missing that come later.
        """
        if part is None or part.parts == 1:
            if types is None:
                return await self._fetch(self._span, (after, last, limit))
            return await self._fetch(self._types, (after, last, list(types), limit))
        if types is None:
            return await self._fetch(self._part, (after, last, part.parts, part.number, limit))
        return await self._fetch(self._types_part, (after, last, list(types), part.parts, part.number, limit))

    async def _fetch(self, statement: str, parameters: Sequence[Any]) -> list[RecordedEvent]:
        return [RecordedEvent._make(row) for row in await self._session.fetch(statement, parameters)]

"""Reading: one stream in order, or the settled log in order."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from perdure_eventstore.events import NO_STREAM, Head, RecordedEvent
from perdure_eventstore.parts import IN_PART, Part
from perdure_eventstore.vault.frame import refuse_frames

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

_COLUMNS = ", ".join(RecordedEvent._fields)


class Source(Protocol):
    """What statements are sent through: a session of one's own, or somebody's transaction."""

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run ``statement`` and return its rows, json as bytes. Raises LogError."""


class Reader:
    """Reads events through one session. Unless ``payloads`` is False, large ones are fetched, and all decrypted.

    They come decrypted through ``vault``. One whose key was destroyed is None; one that cannot be decrypted for another
    reason, or without a vault, raises VaultError.
    """

    def __init__(self, session: Source, schema: str = "perdure", vault: "Vault | None" = None) -> None:
        self._session, self._vault = session, vault
        select = f'select {_COLUMNS} from "{schema}".events'
        self._stream = f"{select} where stream = %s and version > %s order by version limit %s"
        self._firsts = f"""select {", ".join(f"e.{each}" for each in RecordedEvent._fields)}
            from unnest(%s::uuid[]) with ordinality s(stream, number)
            cross join lateral (select * from "{schema}".events each where each.stream = s.stream
                                order by each.version limit %s) e
            order by s.number, e.version"""
        self._head = f'select version, hash from "{schema}".events where stream = %s order by version desc limit 1'
        between, in_order = f"{select} where position > %s and position <= %s", "order by position limit %s"
        in_part = IN_PART.format(parts="%s", part="%s")
        self._span = f"{between} {in_order}"
        self._types = f"{between} and type = any(%s) {in_order}"
        self._unfollowed = f"""{select} e where position > %s and position <= %s and type = any(%s)
            and (type <> all(%s) or not exists (select from "{schema}".events next
                                                where next.stream = e.stream and next.version = e.version + 1))
            {in_order}"""
        self._part = f"{between} and {in_part} {in_order}"
        self._types_part = f"{between} and type = any(%s) and {in_part} {in_order}"
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

    async def firsts(self, streams: Sequence[UUID], most: int) -> dict[UUID, list[RecordedEvent]]:
        """The first events of each of ``streams``, at most ``most``; a stream that does not exist is left out."""
        found: dict[UUID, list[RecordedEvent]] = {}
        for event in await self._fetch(self._firsts, (list(streams), most), payloads=True):
            found.setdefault(event.stream, []).append(event)
        return found

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
        part: Part | None = None,
        limit: int = 1_000,
        payloads: bool = True,
    ) -> list[RecordedEvent]:
        """At most ``limit`` events with ``after`` < position <= ``last``, in order; ``part`` is that of their streams.

        ``last`` must be settled (``SettledMark``), or events may be missing that come later.
        """
        if part is None or part.parts == 1:
            if types is None:
                return await self._fetch(self._span, (after, last, limit), payloads)
            return await self._fetch(self._types, (after, last, list(types), limit), payloads)
        if types is None:
            return await self._fetch(self._part, (after, last, part.parts, part.number, limit), payloads)
        divided = (after, last, list(types), part.parts, part.number, limit)
        return await self._fetch(self._types_part, divided, payloads)

    async def unfollowed(
        self, after: int, last: int, types: Sequence[str], followed: Sequence[str], limit: int
    ) -> list[RecordedEvent]:
        """``span``, of ``types`` and of ``followed``; of the former only what nothing follows yet in its stream."""
        wanted = after, last, [*types, *followed], list(types), limit
        return await self._fetch(self._unfollowed, wanted, payloads=True)

    async def _fetch(self, statement: str, parameters: Sequence[Any], payloads: bool) -> list[RecordedEvent]:
        events = [*map(RecordedEvent._make, await self._session.fetch(statement, parameters))]
        if not payloads:
            return events
        apart = [n for n, each in enumerate(events) if each.payload is None and each.payload_digest is not None]
        if apart:
            await self._add_large(events, apart)
        return refuse_frames(events) if self._vault is None else await self._vault.open(events)

    async def _add_large(self, events: list[RecordedEvent], apart: Sequence[int]) -> None:
        """Put their payloads into those of ``events`` that stand at ``apart``; an erased one stays without."""
        keys = [events[n].stream for n in apart], [events[n].version for n in apart]
        for number, payload in await self._session.fetch(self._large, keys):
            n = apart[number - 1]
            events[n] = events[n]._replace(payload=payload)

"""Reading: one stream in order, or the settled log in order."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from perdure_eventstore.events import NO_STREAM, Head, RecordedEvent
from perdure_eventstore.session import Session
from perdure_eventstore.vault.frame import refuse_frames

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

_COLUMNS = """e.position, e.recorded_at, e.stream, e.version, e.schema_version, e.id, e.type, e.data, e.metadata,
    coalesce(e.payload, case when e.payload_digest is not null then p.payload end), e.payload_salt, e.payload_digest,
    e.hash"""


class Reader:
    """Reads events through one session.

    Payloads come decrypted through ``vault``. One whose key was destroyed is None; one that cannot be decrypted for
    another reason, or without a vault, raises VaultError.
    """

    def __init__(self, session: Session, schema: str = "perdure", vault: "Vault | None" = None) -> None:
        self._session, self._vault = session, vault
        select = f"""select {_COLUMNS} from "{schema}".events e left join "{schema}".payloads p
            on p.stream = e.stream and p.version = e.version and e.payload is null and e.payload_digest is not null"""
        self._stream = f"{select} where e.stream = %s and e.version > %s order by e.version limit %s"
        self._head = f'select version, hash from "{schema}".events where stream = %s order by version desc limit 1'
        self._span = f"{select} where e.position > %s and e.position <= %s order by e.position limit %s"
        self._types = (
            f"{select} where e.position > %s and e.position <= %s and e.type = any(%s) order by e.position limit %s"
        )

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
        self, after: int, last: int, *, types: Sequence[str] | None = None, limit: int = 1_000
    ) -> list[RecordedEvent]:
        """At most ``limit`` events with ``after`` < position <= ``last``, in order.

        ``last`` must be settled (``SettledMark``), or events may be missing that come later.
        """
        if types is None:
            return await self._fetch(self._span, (after, last, limit))
        return await self._fetch(self._types, (after, last, list(types), limit))

    async def _fetch(self, statement: str, parameters: Sequence[Any]) -> list[RecordedEvent]:
        events = [RecordedEvent._make(row) for row in await self._session.fetch(statement, parameters)]
        return refuse_frames(events) if self._vault is None else await self._vault.open(events)

"""The inbox: what reached this node's runs from outside, handed to each run's mailbox."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import structlog

from perdure_engine.facts import EventPublished, decode_fact
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

log = structlog.get_logger(__name__)

_BATCH = 500


class Letter(NamedTuple):
    """One inbox row. ``kind`` is "event" (a published event, ``event`` its stream) or "started" (a run to adopt)."""

    id: int
    run: UUID
    kind: str
    event: UUID | None


class Inbox:
    """Reads rows of this node's shards. A row stays until the append that consumed it deleted it."""

    def __init__(self, session: Session, schema: str, vault: "Vault | None" = None) -> None:
        self._session = session
        self._reader = Reader(session, schema, vault)
        self._handed: set[int] = set()
        self._useless: set[int] = set()
        self._select = f"""select id, run, kind, event from "{schema}".inbox
            where shard = any(%s) and id <> all(%s) order by id limit {_BATCH}"""
        self._delete = f'delete from "{schema}".inbox where id = any(%s)'

    async def read(self, shards: Sequence[int]) -> list[Letter]:
        """Rows not handed out yet, oldest first; each is handed out once until ``forget``."""
        if self._useless:
            useless = list(self._useless)
            await self._session.fetch(self._delete, (useless,))
            self._useless.difference_update(useless)
            self.forget(useless)
        rows = await self._session.fetch(self._select, (list(shards), list(self._handed)))
        letters = [Letter(*row) for row in rows]
        self._handed.update(letter.id for letter in letters)
        return letters

    async def event(self, event: UUID) -> EventPublished:
        """The published event whose stream is ``event``."""
        async for recorded in self._reader.stream(event, batch=1):
            published: EventPublished = decode_fact(recorded)
            return published
        raise LookupError(f"there is no published event {event}")

    def discard(self, ids: Sequence[int]) -> None:
        """Delete, with the next ``read``, rows that made no difference to their run."""
        self._useless.update(ids)

    def forget(self, ids: Sequence[int]) -> None:
        """These rows are gone, or their run is no longer this node's."""
        self._handed.difference_update(ids)

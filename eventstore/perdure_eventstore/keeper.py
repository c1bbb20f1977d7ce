"""The keeper: what may be taken out of the log, and the events that say that it was."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from perdure_eventstore.errors import Raced
from perdure_eventstore.events import Head
from perdure_eventstore.session import Session

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

ERASED: Final = "PayloadsErased"
"""The event type that says which payloads of its stream were erased. data: ``first`` and ``last`` (versions; all
payloads between them are gone), ``payloads`` (how many this was), ``reason``, ``actor``."""

ARCHIVED: Final = "StreamArchived"
"""The event type that says that all earlier events of its stream were moved to a file. data: ``versions``, ``head``
(the hash of the last one, in hex), ``positions`` (where they were: [[first, last], …]), ``file``."""

KEEPING: Final = frozenset({ERASED, ARCHIVED})
"""What the log itself records in anybody's stream: readers that fold a stream pass over these."""

_BATCH = 5_000
"""Payloads in one transaction."""


class Erased(NamedTuple):
    """How many payloads an erasure took; 0 where all were gone already."""

    stream: UUID
    payloads: int


class Keeper:
    """Erases payloads and removes what is archived. Which may be is decided by the layer above."""

    def __init__(self, session: Session, schema: str = "perdure", vault: "Vault | None" = None) -> None:
        self._session, self._vault = session, vault
        self._remove = f'select "{schema}".remove_archived(%s, %s, %s, %s, %s)'
        self._erase_archived = f'select "{schema}".erase_archived(%s, %s, %s, %s)'
        self._erase = f'select erased, finished from "{schema}".erase_payloads(%s, %s, %s, %s)'

    async def erase(self, stream: UUID, reason: str = "", actor: str = "") -> Erased:
        """Take every payload of ``stream`` out of the log, its key first. Broken off, it is called again.

        Raises LogError, VaultError.
        """
        await self.destroy_key(stream)
        payloads, finished = 0, False
        while not finished:
            rows: list[tuple[int, bool]] = await _again(
                self._session.fetch, self._erase, (stream, _BATCH, reason, actor)
            )
            erased, finished = rows[0]
            payloads += erased
        return Erased(stream, payloads)

    async def destroy_key(self, stream: UUID) -> None:
        """Whatever the key of ``stream`` encrypted is unreadable from now on, wherever a copy lies."""
        if self._vault is not None:
            await self._vault.destroy([stream])

    async def remove(self, streams: Mapping[UUID, Head], path: Path) -> list[UUID]:
        """Remove streams that end at these heads and are in the file ``path``; returns those that are removed now.

        Left alone are those that went on, those the tree has not taken in whole, and those archived before.
        """
        versions, hashes = [head.version for head in streams.values()], [head.hash for head in streams.values()]
        rows: list[tuple[list[UUID]]] = await _again(
            self._session.fetch, self._remove, (list(streams), versions, hashes, path.name, str(path))
        )
        return rows[0][0]

    async def record_archived_erasure(self, stream: UUID, payloads: int, reason: str, actor: str) -> None:
        """Say in the log that so many payloads of an archived stream were taken out of its file."""
        await _again(self._session.fetch, self._erase_archived, (stream, payloads, reason, actor))


async def _again(work: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """Somebody else took the place at a stream's end: find the next one."""
    retrying = AsyncRetrying(retry=retry_if_exception_type(Raced), stop=stop_after_attempt(10), reraise=True)
    return await retrying(work, *arguments)

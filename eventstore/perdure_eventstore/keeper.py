"""The keeper: what may be taken out of the log, and the events that say that it was."""

from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from perdure_eventstore.errors import Raced
from perdure_eventstore.session import Session

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

ERASED: Final = "PayloadsErased"
"""The event type that says which payloads of its stream were erased. data: ``first`` and ``last`` (versions; all
payloads between them are gone), ``payloads`` (how many this was), ``reason``, ``actor``."""

ARCHIVED: Final = "StreamArchived"
"""The event type that says that all earlier events of its stream were moved to a file. data: ``versions``, ``head``
(the hash of the last one, in hex), ``file``."""

KEEPING: Final = frozenset({ERASED, ARCHIVED})
"""What the log itself records in anybody's stream: readers that fold a stream pass over these."""

_BATCH = 5_000
"""Payloads in one transaction."""


class Erased(NamedTuple):
    """How many payloads an erasure took; 0 where all were gone already."""

    stream: UUID
    payloads: int


class Keeper:
    """Erases payloads. Who may be erased is decided by the layer above."""

    def __init__(self, session: Session, schema: str = "perdure", vault: "Vault | None" = None) -> None:
        self._session, self._vault = session, vault
        self._erase = f'select erased, finished from "{schema}".erase_payloads(%s, %s, %s, %s)'

    async def erase(self, stream: UUID, reason: str = "", actor: str = "") -> Erased:
        """Take every payload of ``stream`` out of the log, its key first. Broken off, it is called again.

        Raises LogError, VaultError.
        """
        if self._vault is not None:
            await self._vault.destroy([stream])
        again = AsyncRetrying(retry=retry_if_exception_type(Raced), stop=stop_after_attempt(10), reraise=True)
        payloads, finished = 0, False
        while not finished:
            rows: list[tuple[int, bool]] = await again(
                self._session.fetch, self._erase, (stream, _BATCH, reason, actor)
            )
            erased, finished = rows[0]
            payloads += erased
        return Erased(stream, payloads)

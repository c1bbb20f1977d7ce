"""Snapshots where payloads are encrypted: sealed with the key of their run, so that they go when it does."""

from typing import TYPE_CHECKING
from uuid import UUID

from perdure_engine.snapshots import CannotSeal
from perdure_eventstore.vault.errors import VaultError

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault


class StateSealing:
    """Implements ``snapshots.Sealing`` with a vault."""

    def __init__(self, vault: "Vault") -> None:
        self._vault = vault

    async def seal(self, run: UUID, text: bytes) -> bytes:
        """See Sealing."""
        try:
            return await self._vault.seal_state(run, text)
        except VaultError as error:
            raise CannotSeal(str(error)) from error

    async def unseal(self, run: UUID, text: bytes) -> bytes:
        """See Sealing."""
        try:
            return await self._vault.unseal_state(run, text)
        except VaultError as error:
            raise CannotSeal(str(error)) from error


def sealing_of(vault: "Vault | None") -> StateSealing | None:
    """How snapshots are sealed, if they are."""
    return None if vault is None else StateSealing(vault)

"""Whether payloads are encrypted here: the settings, and the vault made of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, SecretStr, model_validator
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure.errors import WrongConnection
from perdure_eventstore.database import open_engine
from perdure_eventstore.session import Session
from perdure_eventstore.vault.errors import VaultError

# Not imported where nothing is encrypted.
if TYPE_CHECKING:
    from perdure_eventstore.vault.stores import KeyStore
    from perdure_eventstore.vault.vault import Vault

_FILE = "file:"


class EncryptionSettings(BaseModel):
    """Where the keys are. Without a master key nothing is encrypted, and nothing encrypted can be read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    master_key: Path | None = None
    """A file of master keys, made by ``perdure keys new FILE``."""
    store: SecretStr = SecretStr("postgres")
    """Where the wrapped keys of the streams are: ``postgres`` (the log's own database), ``file:FOLDER``, or the
    ``postgresql://…`` of another database."""

    @model_validator(mode="after")
    def _whole(self) -> "EncryptionSettings":
        store = self.store.get_secret_value()
        if not (store == "postgres" or store.startswith((_FILE, "postgresql://"))) or store == _FILE:
            raise ValueError("the key store is postgres, file:FOLDER or postgresql://…")
        if self.master_key is None and "store" in self.model_fields_set:
            raise ValueError("a key store without a master key: set PERDURE_ENCRYPTION_MASTER_KEY too")
        return self


def refuse_in_the_clear(settings: EncryptionSettings) -> None:
    """Raise WrongConnection for what would be staged on a caller's connection, where payloads are encrypted."""
    if settings.master_key is not None:
        raise WrongConnection(
            "payloads are encrypted here, and SQL has no key: what is published or started on your own connection "
            "would lie in the log in the clear; leave connection= out"
        )


@asynccontextmanager
async def opened_vault(settings: EncryptionSettings, engine: AsyncEngine, schema: str) -> "AsyncIterator[Vault | None]":
    """The vault that the settings describe, if they do; checked to be the one that was used before.

    Raises VaultError, LogError.
    """
    if settings.master_key is None:
        yield None
        return
    from perdure_eventstore.vault.master import MasterKeys
    from perdure_eventstore.vault.vault import Vault

    masters = MasterKeys(settings.master_key)
    async with _store(settings.store.get_secret_value(), engine, schema) as store:
        vault = Vault(masters, store)
        await vault.check()
        yield vault


@asynccontextmanager
async def _store(name: str, engine: AsyncEngine, schema: str) -> "AsyncIterator[KeyStore]":
    if name.startswith(_FILE):
        from perdure_eventstore.vault.file_store import FileKeyStore

        yield FileKeyStore(Path(name.removeprefix(_FILE)))
        return
    from perdure_eventstore.vault.postgres_store import PostgresKeyStore

    own = name == "postgres"
    engine = engine if own else open_engine(name, pool_size=2)
    store = PostgresKeyStore(engine, schema)
    try:
        if not own:
            await store.make()
        yield store
    finally:
        await store.close()
        if not own:
            await engine.dispose()


async def refuse_without_key(session: Session, schema: str) -> None:
    """Raise VaultError where the database keeps keys of payloads.

    Without the master key a node could work on no run, what is published would lie there in the clear, and an erasure
    would leave its key.
    """
    (used,) = (await session.fetch(f'select exists (select from "{schema}".keys where wrapped is not null)'))[0]
    if used:
        raise VaultError("the payloads of this database are encrypted: this needs PERDURE_ENCRYPTION_MASTER_KEY")

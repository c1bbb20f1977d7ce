"""A client on a database, and nothing else: no node, none of the application's resources."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from perdure import database
from perdure.client import Client
from perdure.encryption import opened_vault
from perdure.settings import Settings
from perdure_engine.background import Background
from perdure_engine.task_types import TaskTypes


@asynccontextmanager
async def connected(name: str, types: TaskTypes, schema: str, settings: Settings) -> AsyncIterator[Client]:
    """Connect to the database ``name`` until the block ends. Raises EmbeddedPostgresError, LogError, VaultError."""
    async with (
        database.opened(name, schema) as engine,
        opened_vault(settings.encryption, engine, schema) as vault,
        Background() as background,
    ):
        client = Client(engine, types, schema, settings.patience, vault)
        background.spawn(client.run())
        yield client

"""A client on a database, and nothing else: no node, none of the application's resources."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from perdure import database
from perdure.client import Client
from perdure_engine.background import Background
from perdure_engine.task_types import TaskTypes


@asynccontextmanager
async def connected(name: str, types: TaskTypes, schema: str, patience: float) -> AsyncIterator[Client]:
    """Connect to the database ``name`` until the block ends. Raises EmbeddedPostgresError, LogError."""
    async with database.opened(name, schema) as engine, Background() as background:
        client = Client(engine, types, schema, patience)
        background.spawn(client.run())
        yield client

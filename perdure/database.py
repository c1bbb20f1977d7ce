"""Which database: a URL, or an embedded Postgres in a folder."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure.embedded import EmbeddedPostgres
from perdure.errors import DatabaseNotNamed
from perdure.migrate import check_schema, migrate
from perdure_eventstore.database import open_engine
from perdure_eventstore.hosts import read_url

EMBEDDED = "embedded:"


def check_name(database: str | None) -> str:
    """``database`` if it names one. Raises DatabaseNotNamed, WrongUrl."""
    if not database:
        raise DatabaseNotNamed()
    if not database.startswith((EMBEDDED, "postgresql://", "postgres://", "postgresql+psycopg://")):
        raise DatabaseNotNamed(database.partition(":")[0])
    if not database.startswith(EMBEDDED):
        read_url(database)
    return database


def embedded_folder(database: str) -> Path | None:
    """The folder of an embedded database; None for any other."""
    if not database.startswith(EMBEDDED):
        return None
    return Path(database.removeprefix(EMBEDDED) or ".perdure").absolute()


async def upgrade(database: str, schema: str) -> None:
    """Bring a database to this version's schema. Raises EmbeddedPostgresError, LogError, DBAPIError."""
    if embedded_folder(database) is None:
        async with _engine(database) as engine:
            await migrate(engine, schema)
        return
    async with opened(database, schema):
        pass


@asynccontextmanager
async def opened(database: str, schema: str) -> AsyncIterator[AsyncEngine]:
    """An engine on a database of this version's schema; an embedded one is started and migrated first.

    Raises EmbeddedPostgresError, SchemaMissing or another LogError.
    """
    if (folder := embedded_folder(database)) is None:
        async with _engine(database) as engine:
            await check_schema(engine, schema)
            yield engine
        return
    server = EmbeddedPostgres(folder)
    url = await anyio.to_thread.run_sync(server.acquire)
    try:
        async with _engine(url) as engine:
            await migrate(engine, schema)
            yield engine
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(server.release)


@asynccontextmanager
async def _engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(url)
    try:
        yield engine
    finally:
        with anyio.CancelScope(shield=True):
            await engine.dispose()

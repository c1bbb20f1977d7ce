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

EMBEDDED = "embedded:"


def check_name(database: str | None) -> str:
    """``database`` if it names one. Raises DatabaseNotNamed."""
    if not database:
        raise DatabaseNotNamed()
    if not database.startswith((EMBEDDED, "postgresql://", "postgres://", "postgresql+psycopg://")):
        raise DatabaseNotNamed(database.partition(":")[0])
    return database


@asynccontextmanager
async def opened(database: str, schema: str) -> AsyncIterator[AsyncEngine]:
    """An engine on a database of this version's schema; an embedded one is started and migrated first.

    Raises EmbeddedPostgresError, SchemaMissing or another LogError.
    """
    if not database.startswith(EMBEDDED):
        async with _engine(database.replace("postgres://", "postgresql://", 1)) as engine:
            await check_schema(engine, schema)
            yield engine
        return
    folder = Path(database.removeprefix(EMBEDDED) or ".perdure").absolute()
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

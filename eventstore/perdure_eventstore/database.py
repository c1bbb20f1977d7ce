"""The way to Postgres: one SQLAlchemy engine, and psycopg's own connections out of it for the hot path."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.types.string import ByteaBinaryLoader
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection as SqlAlchemyConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from perdure_eventstore.errors import LogError, LogUnavailable, domain_error
from perdure_eventstore.hosts import read_url

log = structlog.get_logger(__name__)

_BOUNDS = """select set_config('lock_timeout', '10s', false),
    set_config('idle_in_transaction_session_timeout', '60s', false),
    set_config('default_transaction_isolation', 'read committed', false)"""
"""Nobody waits for ever for somebody else's lock, and no client that is frozen keeps one.

Who waited for a lock looks at what there is by then, whatever isolation the role or the database has by default.
"""


_OVERFLOW = 10

_apart: "WeakKeyDictionary[Engine, AsyncEngine]" = WeakKeyDictionary()
"""For each engine, what makes connections that are not its pool's."""

_ALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
"""A host that is gone without a word is given up after half a minute: the kernel alone would wait for hours."""


def open_engine(
    url: str, *, pool_size: int = 10, connect_timeout: float = 5.0, pool_timeout: float = 30.0
) -> AsyncEngine:
    """An engine for ``url`` (see ``hosts``). No connection is made yet. Raises WrongUrl.

    ``pool_size`` connections, and ten more, are for whoever borrows one, and waits for it ``pool_timeout`` seconds at
    most; sessions have their own beside them. What the URL says of ``connect_timeout`` (seconds a host) and the like
    holds.
    """
    parsed = read_url(url)
    options = {"connect_timeout": max(2, round(connect_timeout)), "application_name": "perdure", **_ALIVE}
    # Errors end up in the log of a failed task: without this they would carry the values of its statement.
    settings: dict[str, Any] = {
        "hide_parameters": True,
        "connect_args": {name: value for name, value in options.items() if name not in parsed.query},
    }
    engine = create_async_engine(
        parsed, pool_size=pool_size, max_overflow=_OVERFLOW, pool_timeout=pool_timeout, **settings
    )
    _apart[engine.sync_engine] = create_async_engine(parsed, poolclass=NullPool, **settings)
    return engine


@asynccontextmanager
async def raw_connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection[Any]]:
    """psycopg's own connection, in autocommit, json columns as the bytes they were written as.

    It is not the pool's, which the application may have run dry, and is closed when the block ends: those who take one
    keep it. Raises LogError.
    """
    try:
        fairy = await _apart.get(engine.sync_engine, engine).raw_connection()
    except (DBAPIError, PoolTimeout, psycopg.Error, OSError) as error:
        raise connection_error(error) from error
    connection = fairy.driver_connection
    assert isinstance(connection, AsyncConnection)
    fairy.detach()
    try:
        await _prepare(connection)
        yield connection
    finally:
        await connection.close()


async def borrow(engine: AsyncEngine) -> SqlAlchemyConnection:
    """A connection out of the pool that works, in a transaction. It is given back by ``give_back``.

    Raises LogError.
    """
    connection: SqlAlchemyConnection | None = None
    try:
        connection = await engine.connect()
        # One out of the pool may have been broken for long.
        await connection.exec_driver_sql("select")
    except BaseException as error:
        if connection is not None:
            await give_back(connection)
        if isinstance(error, PoolTimeout):
            log.warning("every connection of the pool is taken, waiting for one", pool=engine.pool.status())
        if isinstance(error, DBAPIError | PoolTimeout | psycopg.Error | OSError):
            raise connection_error(error) from error
        raise
    return connection


async def give_back(connection: SqlAlchemyConnection) -> None:
    """Roll back what is open on a borrowed connection, and give it back, before anything else: cancelled or not."""
    closing = asyncio.ensure_future(connection.close())
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        # The engine may be disposed of next, and would not know of a connection still on its way.
        await asyncio.wait([closing])
        if not closing.cancelled():
            closing.exception()
        raise
    except DBAPIError as error:
        # A connection that is lost has nothing to roll back; what happened before is what counts.
        log.debug("a connection was lost before it was closed", error=str(error))


async def _prepare(connection: AsyncConnection[Any]) -> None:
    try:
        await connection.set_autocommit(True)
        await connection.execute(_BOUNDS)
    except (psycopg.Error, OSError) as error:
        raise connection_error(error) from error
    read_json_as_written(connection)


def read_json_as_written(connection: AsyncConnection[Any]) -> None:
    """Have ``connection`` return json as bytes, unparsed."""
    connection.adapters.register_loader("json", ByteaBinaryLoader)


def connection_error(error: BaseException) -> LogError:
    """The sentence for a database that could not be reached."""
    if isinstance(error, PoolTimeout):
        return LogUnavailable(
            "no connection was free: every one of the application's pool is taken, and none was given back in time"
        )
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if isinstance(cause, psycopg.Error):
        found = domain_error(cause)
        if not isinstance(found, LogUnavailable):
            return found
    return LogUnavailable(f"the database cannot be reached: {str(cause).strip()}")

"""A connection of one's own that comes back after it was lost."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.database import raw_connection
from perdure_eventstore.errors import domain_error

_LAST_STATEMENT = 10.0
"""Seconds."""

log = structlog.get_logger(__name__)


class Session:
    """psycopg's connection in autocommit (``database.raw_connection``), opened when it is first used.

    After an error that broke it, the next use opens another. Statements from several tasks take turns.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: AsyncConnection[Any] | None = None
        self._closing = AsyncExitStack()
        self._opening = asyncio.Lock()
        self.opened = 0
        """How many connections there have been: what was remembered of an earlier one may no longer hold."""

    async def connection(self) -> AsyncConnection[Any]:
        """The connection, working as far as known. Raises LogUnavailable."""
        if self._connection is not None and not self._connection.closed:
            return self._connection
        async with self._opening:
            if self._connection is not None and self._connection.closed:
                await self.close()
            if self._connection is None:
                self._connection = await self._closing.enter_async_context(raw_connection(self._engine))
                self.opened += 1
            return self._connection

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run ``statement`` and return its rows. Raises LogError."""
        connection = await self.connection()
        try:
            cursor = await connection.execute(statement, parameters, prepare=True, binary=True)
            return await cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            if isinstance(error, ReadOnlySqlTransaction):
                # A standby: of several hosts another one can be written to.
                await self.close()
            raise domain_error(error) from error

    async def close(self) -> None:
        """Give the connection up, once another task's statement under way has ended; the next use opens another."""
        connection, self._connection = self._connection, None
        closing = self._closing.pop_all()
        if connection is None or connection.closed:
            await closing.aclose()
            return
        try:
            async with asyncio.timeout(_LAST_STATEMENT):
                await connection.lock.acquire()
        except TimeoutError:
            # psycopg, closed under a statement, takes the whole process with it: better one connection too many.
            log.warning("a connection was left open: its last statement did not end", seconds=_LAST_STATEMENT)
            return
        try:
            await closing.aclose()
        finally:
            connection.lock.release()


class Borrowed(Session):
    """Somebody else's connection, used as a session is; closing it is up to them."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self.opened = 1

    async def connection(self) -> AsyncConnection[Any]:
        """The connection, in whatever state it is."""
        assert self._connection is not None
        return self._connection

    async def close(self) -> None:
        """Leave it open."""

"""One look at the log and the working set: both as they were at one moment, which commit together."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg
from psycopg import AsyncConnection, IsolationLevel
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_engine.run import events as e
from perdure_eventstore.database import raw_connection
from perdure_eventstore.errors import domain_error
from perdure_eventstore.session import Borrowed

if TYPE_CHECKING:
    from perdure_engine.definitions.definition import Definition
    from perdure_eventstore.vault.vault import Vault

ENDED: Final = ", ".join(f"'{kind.__name__}'" for kind in e.RUN_ENDED)
"""The event types that end a run, as a list in SQL."""

_numbers = count(1)


class Snapshot(NamedTuple):
    """Where to ask, and what is needed to read the answers."""

    connection: AsyncConnection[Any]
    schema: str
    vault: "Vault | None"
    definition: "Callable[[str], Awaitable[Definition]]"
    """The compiled definition of a digest; raises KeyError."""
    remarks: list[str]
    """What could not be checked, and what is no fault and yet worth knowing."""

    @property
    def session(self) -> Borrowed:
        """The same connection, as a session."""
        return Borrowed(self.connection)

    async def pages(self, statement: str, parameters: Sequence[Any], size: int) -> AsyncIterator[list[Any]]:
        """The rows of ``statement``, ``size`` at a time, however many there are. Raises LogError."""
        try:
            async with self.connection.cursor(name=f"doctor_{next(_numbers)}") as cursor:
                await cursor.execute(statement.encode(), parameters, binary=True)
                while rows := await cursor.fetchmany(size):
                    yield rows
        except psycopg.Error as error:
            raise domain_error(error) from error


@asynccontextmanager
async def one_moment(engine: AsyncEngine, *, read_only: bool) -> AsyncIterator[AsyncConnection[Any]]:
    """A connection in a transaction that sees one moment, from its first query on. Raises LogError."""
    async with raw_connection(engine) as connection:
        await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await connection.set_read_only(read_only)
        try:
            async with connection.transaction():
                yield connection
        except psycopg.Error as error:
            raise domain_error(error) from error

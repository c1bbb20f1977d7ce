"""The engine's transaction in a handler's hands: to write in, not to end."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from perdure_engine.errors import TransactionIsOurs


@asynccontextmanager
async def lend(
    connection: AsyncConnection, refusal: Callable[[str], TransactionIsOurs] = TransactionIsOurs
) -> AsyncIterator[None]:
    """Refuse commit and rollback on ``connection`` inside the block, savepoints apart.

    Raises TransactionIsOurs at the call, and again at the end in case the handler swallowed it; by then all its work
    is rolled back. ``refusal`` makes it, from the verb. A COMMIT sent as SQL text is not seen here.
    """
    refusals: list[TransactionIsOurs] = []

    def refuse(verb: str) -> TransactionIsOurs:
        refusals.append(refusal(verb))
        return refusals[-1]

    def on_commit(_: Connection) -> None:
        raise refuse("commit")

    def on_rollback(_: Connection) -> None:
        raise refuse("roll back")

    listeners: tuple[tuple[str, Any], ...] = (("commit", on_commit), ("rollback", on_rollback))
    for name, listener in listeners:
        event.listen(connection.sync_connection, name, listener)
    try:
        yield
    finally:
        for name, listener in listeners:
            event.remove(connection.sync_connection, name, listener)
        if refusals:
            # SQLAlchemy takes its transaction for ended, and would give the connection back with Postgres' still open.
            driver: Any = (await connection.get_raw_connection()).driver_connection
            await driver.rollback()
    if refusals:
        raise refusals[0]


@asynccontextmanager
async def session_in(connection: AsyncConnection) -> AsyncIterator[AsyncSession]:
    """A session inside the connection's transaction: its commits and rollbacks reach to its own savepoint only.

    What it holds at the end of the block is flushed and kept; an error in the block undoes the session's work.
    """
    async with AsyncSession(
        bind=connection, join_transaction_mode="create_savepoint", expire_on_commit=False
    ) as session:
        yield session
        await session.commit()

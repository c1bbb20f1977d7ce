"""Exactly once: a task's own writes and its completion in one transaction on the log's own Postgres."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import structlog
from psycopg import AsyncConnection
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection as SqlAlchemyConnection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import Pool, QueuePool
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

from perdure_engine.attempt import Attempt
from perdure_engine.calling import call
from perdure_engine.held_run import Decision, HandedOver, HeldRun, Message
from perdure_engine.run.commands import AttemptEnd
from perdure_engine.run.events import TaskCompleted
from perdure_eventstore.append import Append, Appended, Batch, Statement, read_clock, send
from perdure_eventstore.clock import Clock
from perdure_eventstore.database import borrow, give_back
from perdure_eventstore.door import Json
from perdure_eventstore.errors import AppendRefused, ClockDrift, FenceLost, LogUnavailable, Raced
from perdure_eventstore.patience import patiently
from perdure_eventstore.vault.errors import VaultError

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

log = structlog.get_logger(__name__)

_CONNECTIONS = 10
"""At once, where the pool does not say how many it keeps."""

# Between two tries the transaction is idle, well below what it may be.
_DECIDE_WAITS = wait_exponential(multiplier=0.01, max=0.5) + wait_random(0, 0.01)
_DECIDE_TRIES = 10

_NOT_FOR_EVER = "set local idle_in_transaction_session_timeout = '5s'"


class AttemptSuperseded(Exception):
    """The attempt was decided otherwise while its handler worked; what it wrote is rolled back."""


class ConnectionLost(Exception):
    """Postgres went away under an attempt: what it wrote is gone, unless its completion is in the log."""

    is_outage = False
    """Whether all of Postgres did, and not just the attempt's connection, which its handler may be to blame for."""


class ExactlyOnce:
    """The engine owns the transaction: handler, then TaskCompleted as the last statement, then COMMIT.

    Who loses the race for the run's stream goes back to the savepoint, folds what happened and decides again; the
    handler is not repeated. If the attempt is no longer under way by then, all of it is rolled back.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        statement: Statement,
        clock: Clock,
        now: Callable[[], datetime],
        vault: "Vault | None" = None,
    ) -> None:
        self._engine, self._statement, self._clock, self._now = engine, statement, clock, now
        self._vault = vault
        # What the pool opens beyond that is for the node's own connections, which attempts wait for in their turn.
        self._connections = asyncio.Semaphore(_kept_open(engine.pool))

    async def run(self, attempt: Attempt, begin: Callable[[], None]) -> bool:
        """Call the handler and record its output. False when the attempt was decided already; nothing is kept then.

        Waits for a free connection, and for Postgres if it cannot be reached; then calls ``begin`` and the handler.
        Raises what the handler raises, ConnectionLost, and LogError.
        """
        assert attempt.task_type is not None
        async with self._connection() as connection:
            raw = await _raw(connection)
            begun = self._now()
            begin()
            try:
                output = Json.of(await call(attempt.task_type, attempt.task, connection))
                # Frozen from here on, this process would hold the node's row, which whoever takes over waits for.
                await raw.execute(_NOT_FOR_EVER)
                await attempt.home.keep(attempt, output, connection)
            except AttemptSuperseded:
                return False
            except (DBAPIError, psycopg.Error, LogUnavailable) as error:
                if not raw.closed:
                    raise
                lost = ConnectionLost(str(error))
                lost.is_outage = await self._was_outage(begun)
                raise lost from error
            except ConnectionLost as lost:
                lost.is_outage = await self._was_outage(begun)
                raise
        return True

    async def _was_outage(self, since: datetime) -> bool:
        """Whether the server is out of reach now, or began anew after ``since``."""
        try:
            connection = await borrow(self._engine)
        except LogUnavailable:
            return True
        try:
            restarted = await connection.scalar(text("select pg_postmaster_start_time() > :since"), {"since": since})
            return bool(restarted)
        except DBAPIError:
            return True
        finally:
            await give_back(connection)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[SqlAlchemyConnection]:
        """A connection that works, in a transaction; nobody's commit but ours ends it, and closing rolls back."""
        async with self._connections:
            connection = await patiently(partial(borrow, self._engine))
            try:
                yield connection
            finally:
                await give_back(connection)

    async def complete(
        self, run: HeldRun, attempt: Attempt, output: Json, connection: SqlAlchemyConnection
    ) -> Decision | None:
        """In the run's turn: append the completion, and commit."""
        raw = await _raw(connection)
        again = AsyncRetrying(
            retry=retry_if_exception_type(_Again),
            wait=_DECIDE_WAITS,
            stop=stop_after_attempt(_DECIDE_TRIES),
            reraise=True,
        )
        try:
            return await again(self._decide, run, attempt, output, connection, raw)
        except (_Again, LogUnavailable) as error:
            # Whatever Postgres' trouble is, it is not the handler's.
            raise ConnectionLost(str(error)) from error

    async def _decide(
        self, run: HeldRun, attempt: Attempt, output: Json, connection: SqlAlchemyConnection, raw: AsyncConnection[Any]
    ) -> Decision:
        while True:
            decision = run.decide([Message(attempt.completed(self._now(), output))], begin=False)
            if not any(isinstance(event, TaskCompleted) for event in decision.events):
                raise AttemptSuperseded
            savepoint = await connection.begin_nested()
            try:
                answer = await self._append(run, decision, raw)
            except (Raced, ClockDrift, LogUnavailable) as error:
                if raw.closed:
                    raise
                log.info("a completion could not be appended, trying again", run=str(run.run_id), error=str(error))
                await savepoint.rollback()
                if isinstance(error, ClockDrift):
                    await read_clock(raw, self._clock)
                await run.reload()
                raise _Again(str(error)) from error
            if answer is not None:
                await savepoint.commit()
                await connection.commit()
                run.evolve(decision, answer.head)
                return decision
            await savepoint.rollback()
            await run.reload()

    async def _append(self, run: HeldRun, decision: Decision, raw: AsyncConnection[Any]) -> Appended | None:
        batch = Batch([await self._sealed(run.append_of(decision))])
        return (await send(raw, self._statement, batch, self._clock))[0]

    async def _sealed(self, append: Append) -> Append:
        if self._vault is None:
            return append
        sealed = (await self._vault.seal([append]))[0]
        if isinstance(sealed, VaultError):
            raise AppendRefused(f"it cannot be encrypted: {sealed}") from sealed
        assert isinstance(sealed, Append)
        return sealed


class _Again(Exception):
    """The log did not take the completion this time; the transaction is back at its savepoint."""


class OwnRun:
    """Implements ``attempt.Home`` for a run that this node holds."""

    __slots__ = ("_exactly_once", "_free", "_run")

    def __init__(self, run: HeldRun, free: Callable[[str], None], exactly_once: ExactlyOnce) -> None:
        """``free`` is called with the type of an attempt whose slot is free."""
        self._run, self._free, self._exactly_once = run, free, exactly_once

    def ended(self, attempt: Attempt, command: AttemptEnd | None) -> None:
        try:
            # The slot first: what follows may begin in it, in the same append.
            self._free(attempt.order.spec.type)
        finally:
            if command is not None:
                self._run.tell(command)

    async def keep(self, attempt: Attempt, output: Json, connection: SqlAlchemyConnection) -> None:
        try:
            await self._run.take_turn(lambda: self._exactly_once.complete(self._run, attempt, output, connection))
        except HandedOver:
            # Its home is another by now.
            await attempt.home.keep(attempt, output, connection)

    def fenced(self, error: FenceLost) -> None:
        self._run.fenced(error)


async def _raw(connection: SqlAlchemyConnection) -> AsyncConnection[Any]:
    raw = (await connection.get_raw_connection()).driver_connection
    assert isinstance(raw, AsyncConnection)
    return raw


def _kept_open(pool: Pool) -> int:
    # A pool of any size says 0.
    return (pool.size() if isinstance(pool, QueuePool) else 0) or _CONNECTIONS

"""Exactly once: a task's own writes and its completion in one transaction on the log's own Postgres."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import psycopg
from psycopg import AsyncConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection as SqlAlchemyConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_engine.held_run import Decision, HeldRun, Message
from perdure_engine.run.commands import CompleteAttempt
from perdure_engine.run.events import TaskCompleted
from perdure_engine.task import Task
from perdure_eventstore.append import Batch, Statement, send
from perdure_eventstore.clock import Clock
from perdure_eventstore.door import Json
from perdure_eventstore.errors import LogUnavailable

_NOT_FOR_EVER = "set local idle_in_transaction_session_timeout = '5s'"


class AttemptSuperseded(Exception):
    """The attempt was decided otherwise while its handler worked; what it wrote is rolled back."""


class ConnectionLost(Exception):
    """Postgres went away under an attempt: what it wrote is gone, unless its completion is in the log."""


class ExactlyOnce:
    """The engine owns the transaction: handler, then TaskCompleted as the last statement, then COMMIT.

    Who loses the race for the run's stream goes back to the savepoint, folds what happened and decides again; the
    handler is not repeated. If the attempt is no longer under way by then, all of it is rolled back.
    """

    def __init__(self, engine: AsyncEngine, statement: Statement, clock: Clock, now: Callable[[], datetime]) -> None:
        self._engine, self._statement, self._clock, self._now = engine, statement, clock, now

    async def run(self, run: HeldRun, task: Task, work: Callable[[SqlAlchemyConnection], Awaitable[Any]]) -> bool:
        """Do ``work`` and record its output. False when the attempt was already decided; nothing is kept then.

        Raises what ``work`` raises, ConnectionLost, and LogError.
        """
        raw: AsyncConnection[Any] | None = None
        try:
            async with self._engine.connect() as connection:
                raw = (await connection.get_raw_connection()).driver_connection
                assert isinstance(raw, AsyncConnection)
                await self._run(run, task, work, connection, raw)
        except AttemptSuperseded:
            return False
        except (DBAPIError, psycopg.Error, LogUnavailable) as error:
            if raw is None or raw.closed:
                raise ConnectionLost(str(error)) from error
            raise
        return True

    async def _run(
        self,
        run: HeldRun,
        task: Task,
        work: Callable[[SqlAlchemyConnection], Awaitable[Any]],
        connection: SqlAlchemyConnection,
        raw: AsyncConnection[Any],
    ) -> None:
        # Not as a context manager: the commit is ours to place, within the run's turn. Closing rolls back.
        await connection.begin()
        output = Json.of(await work(connection))
        await run.take_turn(lambda: self._complete(run, task, output, connection, raw))

    async def _complete(
        self, run: HeldRun, task: Task, output: Json, connection: SqlAlchemyConnection, raw: AsyncConnection[Any]
    ) -> Decision | None:
        # Frozen from here on, this process would hold the node's row, which whoever takes over waits for.
        await raw.execute(_NOT_FOR_EVER)
        while True:
            command = CompleteAttempt(
                at=self._now(), task_id=task.task_id, attempt=task.attempt, output=output
            )  # fmt: skip
            decision = run.decide([Message(command)], begin=False)
            if not any(isinstance(event, TaskCompleted) for event in decision.events):
                raise AttemptSuperseded
            savepoint = await connection.begin_nested()
            answer = (await send(raw, self._statement, Batch([run.append_of(decision)]), self._clock))[0]
            if answer is not None:
                await savepoint.commit()
                await connection.commit()
                run.evolve(decision, answer.head)
                return decision
            await savepoint.rollback()
            await run.reload()

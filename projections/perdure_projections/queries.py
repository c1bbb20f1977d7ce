"""Reading the built-in views. What they say may be some milliseconds old; ``list_projections`` says how far behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from perdure_eventstore.database import connection_error
from perdure_eventstore.tables import events
from perdure_projections.tables import projections, runs, tasks


class RunRow(NamedTuple):
    """A run, as ``runs`` has it. ``status``: open, stopping, completed, failed, timed_out or cancelled."""

    run: UUID
    workflow_id: str
    digest: str
    status: str
    key: str | None
    event: str | None
    started_at: datetime
    ended_at: datetime | None
    tasks: int
    """How many of its tasks have been scheduled at least once."""
    events: int
    version: int
    error: str | None
    """Why it did not complete."""


class TaskRow(NamedTuple):
    """A task that something has happened to.

    ``status``: delayed, scheduled, started, retrying, interrupted, completed, failed, skipped or cancelled.
    """

    run: UUID
    task_id: str
    status: str
    attempt: int
    failures: int
    interruptions: int
    scheduled_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    retry_at: datetime | None
    node: UUID | None
    reason: str | None
    error: str | None


class ProjectionRow(NamedTuple):
    """How far a projection has come; ``behind`` is its lag in positions of the log."""

    name: str
    version: int
    position: int
    behind: int
    updated_at: datetime
    error: str | None
    """Which event stopped it, and why."""


async def list_runs(
    engine: AsyncEngine,
    schema: str,
    status: str | None = None,
    workflow: str | None = None,
    limit: int = 50,
) -> list[RunRow]:
    """The latest runs first, of one status and one ``workflow_id`` if asked for. Raises LogError."""
    query = _latest(limit)
    if status is not None:
        query = query.where(runs.c.status == status)
    if workflow is not None:
        query = query.where(runs.c.workflow_id == workflow)
    return [RunRow._make(row) for row in await _rows(engine, schema, query)]


async def find_runs_by_prefix(engine: AsyncEngine, schema: str, prefix: str, limit: int = 10) -> list[RunRow]:
    """The runs whose id begins with ``prefix``, with or without dashes. Raises ValueError if no id can; LogError."""
    lowest, highest = uuid_range(prefix)
    query = select(runs).where(runs.c.run.between(lowest, highest)).order_by(runs.c.run).limit(limit)
    return [RunRow._make(row) for row in await _rows(engine, schema, query)]


async def last_run(engine: AsyncEngine, schema: str) -> RunRow | None:
    """The run that was started last. Raises LogError."""
    found = await _rows(engine, schema, _latest(1))
    return RunRow._make(found[0]) if found else None


async def get_run(engine: AsyncEngine, schema: str, run: UUID) -> RunRow | None:
    """The run with this id. Raises LogError."""
    found = await _rows(engine, schema, select(runs).where(runs.c.run == run))
    return RunRow._make(found[0]) if found else None


async def get_tasks(engine: AsyncEngine, schema: str, run: UUID) -> list[TaskRow]:
    """The tasks of a run that something has happened to, in the order they were scheduled in. Raises LogError."""
    order = (tasks.c.scheduled_at.nulls_last(), tasks.c.task_id)
    found = await _rows(engine, schema, select(tasks).where(tasks.c.run == run).order_by(*order))
    return [TaskRow._make(row) for row in found]


async def list_projections(engine: AsyncEngine, schema: str) -> list[ProjectionRow]:
    """Every projection that ever ran, by name. Raises LogError."""
    end = func.coalesce(select(func.max(events.c.position)).scalar_subquery(), 0)
    p = projections.c
    # The view may have moved past an end of the log that was read a moment earlier.
    behind = func.greatest(end - p.position, 0)
    query = select(p.name, p.version, p.position, behind, p.updated_at, p.error).order_by(p.name)
    return [ProjectionRow._make(row) for row in await _rows(engine, schema, query)]


def uuid_range(prefix: str) -> tuple[UUID, UUID]:
    """The lowest and the highest UUID that begin with ``prefix``. Raises ValueError for what none begins with."""
    digits = prefix.replace("-", "").lower()
    if len(digits) > 32 or digits.strip("0123456789abcdef"):
        raise ValueError(
            f"{prefix!r:.60} is not the beginning of a run's id: it takes up to 32 of the digits 0-9 and a-f"
        )
    return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))


def _latest(limit: int) -> Select[Any]:
    return select(runs).order_by(runs.c.started_at.desc(), runs.c.run).limit(limit)


async def _rows(engine: AsyncEngine, schema: str, query: Select[Any]) -> list[Any]:
    async with _connect(engine, schema) as connection:
        return list(await connection.execute(query))


@asynccontextmanager
async def _connect(engine: AsyncEngine, schema: str) -> AsyncIterator[AsyncConnection]:
    try:
        async with engine.connect() as connection:
            yield await connection.execution_options(schema_translate_map={"perdure": schema})
    except DBAPIError as error:
        raise connection_error(error) from error

"""The `database` task: a statement with named parameters, or its inputs as one row of documents.

On Perdure's own database it is exactly once: the row and the record of the task's end are one transaction. On another
database it is at least once: a node that dies between the two commits runs the statement again, so write it to bear
that (``insert … on conflict do nothing``).
"""

from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from perdure.tasks.settings import DatabaseTaskSettings
from perdure.tasks.statement import run_statement
from perdure_engine.errors import InputsInvalid
from perdure_engine.faults import Fault
from perdure_engine.handlers import Handler
from perdure_engine.task import Task
from perdure_eventstore.door import Json
from perdure_eventstore.hosts import read_url


class OtherDatabase:
    """The handler for a database that is not Perdure's. It connects when first called."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._engine: AsyncEngine | None = None

    async def __call__(self, statement: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run ``statement`` in a transaction of its own; see ``run_statement`` for the output."""
        if self._engine is None:
            # A connection that a restart of the server broke is found out before it costs an attempt.
            self._engine = create_async_engine(self._url, pool_pre_ping=True)
        async with self._engine.begin() as connection:
            return await run_statement(connection, statement, parameters or {})

    async def aclose(self) -> None:
        """Close the connections."""
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None


def database_task(
    settings: DatabaseTaskSettings, *, schema: str = "perdure", own_url: str | None = None
) -> Handler | OtherDatabase:
    """The handler for the configured database.

    ``schema`` holds Perdure's tables, ``own_url`` is Perdure's database: configuring that one is configuring none.
    Raises ValueError for a URL nobody can read.
    """
    if settings.url is None:
        return _own_database(schema)
    url = _read_url(settings.url.get_secret_value())
    if own_url is not None and _same(url, _read_url(own_url)):
        return _own_database(schema)
    return OtherDatabase(url)


def _own_database(schema: str) -> Handler:
    # A task that runs again, after a rewind, replaces its document: the newest run of it counts.
    insert = text(
        f'insert into "{schema.replace(chr(34), chr(34) * 2)}".documents (run_id, task_id, document) '
        "values (:run_id, :task_id, cast(:document as json)) "
        "on conflict (run_id, task_id) do update set document = excluded.document, recorded_at = default "
        "returning document_id"
    )

    # Underscores leave the plain names free for the document.
    async def database(
        _task: Task,
        _connection: AsyncConnection,
        statement: str | None = None,
        parameters: dict[str, Any] | None = None,
        **document: Any,
    ) -> dict[str, Any]:
        if statement is None:
            row = {
                "run_id": _task.run_id, "task_id": _task.task_id, "document": Json.of(_task.inputs).text.decode(),
            }  # fmt: skip
            return {"document_id": str((await _connection.execute(insert, row)).scalar_one())}
        if document:
            faults = [Fault(f"/{name}", "beside `statement` stands `parameters` alone") for name in document]
            raise InputsInvalid("database", faults)
        return await run_statement(_connection, statement, parameters or {})

    return database


def _read_url(text: str) -> URL:
    if text.startswith(("postgresql://", "postgres://")):
        return read_url(text)
    try:
        url = make_url(text)
    except ArgumentError:
        # Without its cause: the text may hold a password.
        raise ValueError("the database task's URL cannot be read; write postgresql://user@host/name") from None
    return url


def _same(one: URL, other: URL) -> bool:
    # The user belongs to it: another role has other rights.
    def place(url: URL) -> tuple[Any, ...]:
        return (
            url.get_backend_name(),
            url.username,
            url.host,
            url.port or 5432,
            url.database,
            (url.query.get("host"), url.query.get("port")),
        )

    return place(one) == place(other)

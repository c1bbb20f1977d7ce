"""The caller's own transaction: one statement on the caller's connection, and nothing before the caller's COMMIT.

Asynchronous: SQLAlchemy's AsyncConnection or AsyncSession, psycopg's AsyncConnection. Synchronous: SQLAlchemy's
Connection or Session, psycopg's Connection, Django's ``django.db.connection``. Under SQLAlchemy it is plain SQL with
texts as parameters, whatever the driver.

A connection in autocommit with no transaction open commits the statement by itself, as it does with every other.
"""

from typing import Any, TypeAlias

import psycopg
from psycopg.rows import tuple_row
from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from perdure.errors import StartRefused, WrongConnection
from perdure_engine.staging import Call, CallRefused, refusal

AsyncWithin: TypeAlias = AsyncConnection | AsyncSession | async_scoped_session[Any] | psycopg.AsyncConnection[Any]
Within: TypeAlias = Connection | Session | scoped_session[Any] | psycopg.Connection[Any]

_ASYNC = (AsyncConnection, AsyncSession, async_scoped_session, psycopg.AsyncConnection)
_SYNC = (Connection, Session, scoped_session, psycopg.Connection)


async def execute_async(connection: AsyncWithin, call: Call, schema: str) -> None:
    """Do ``call`` on ``connection``, in its transaction.

    Raises WrongConnection, StartRefused, SchemaMissing, or the driver's own error.
    """
    if not isinstance(connection, _ASYNC):
        raise WrongConnection(_unfit(connection, asynchronous=True))
    try:
        if isinstance(connection, psycopg.AsyncConnection):
            _check_open(connection.closed)
            async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
                await cursor.execute(call.sql(schema, _percent).encode(), call.values)
            return
        if not isinstance(connection, AsyncConnection):
            connection = await connection.connection()
        _check_open(connection.closed)
        await connection.execute(_clause(call, schema), _named(call))
    except (DBAPIError, psycopg.Error) as error:
        _explain(error, schema)


def execute(connection: Within | Any, call: Call, schema: str) -> None:
    """The same on a synchronous connection."""
    if not isinstance(connection, _SYNC):
        connection = _of_django(connection)
    try:
        if isinstance(connection, psycopg.Connection):
            _check_open(connection.closed)
            with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
                cursor.execute(call.sql(schema, _percent).encode(), call.values)
            return
        if not isinstance(connection, Connection):
            connection = connection.connection()
        _check_open(connection.closed)
        connection.execute(_clause(call, schema), _named(call))
    except (DBAPIError, psycopg.Error) as error:
        _explain(error, schema)


def _percent(_: int) -> str:
    return "%s"


def _name(index: int) -> str:
    return f":p{index}"


def _clause(call: Call, schema: str) -> TextClause:
    return text(call.sql(schema.replace(":", "\\:"), _name))


def _named(call: Call) -> dict[str, str | None]:
    return {f"p{index}": value for index, value in enumerate(call.values)}


def _of_django(connection: Any) -> psycopg.Connection[Any]:
    """The driver's connection under Django's, which opens it when it is first used."""
    if callable(ensure := getattr(connection, "ensure_connection", None)):
        ensure()
        driver = getattr(connection, "connection", None)
        if isinstance(driver, psycopg.Connection):
            return driver
        raise WrongConnection(f"Django's connection is one of {type(driver).__module__}; Perdure takes psycopg 3's")
    raise WrongConnection(_unfit(connection, asynchronous=False))


def _check_open(closed: bool) -> None:
    if closed:
        raise WrongConnection("the connection is closed: hand in an open one, inside its transaction")


def _unfit(connection: Any, *, asynchronous: bool) -> str:
    given = f"{type(connection).__module__.partition('.')[0]}'s {type(connection).__name__}"
    if asynchronous:
        right = "SQLAlchemy's AsyncConnection or AsyncSession, or psycopg's AsyncConnection"
        return f"connection= is {right}, not {given}" + (
            "; with a synchronous one use app.blocking()" if isinstance(connection, _SYNC) else ""
        )
    right = "SQLAlchemy's Connection or Session, psycopg's Connection, or Django's"
    return f"connection= is {right}, not {given}" + (
        "; with an asynchronous one use the app itself" if isinstance(connection, _ASYNC) else ""
    )


def _explain(error: DBAPIError | psycopg.Error, schema: str) -> None:
    """Raise the sentence for ``error``, or ``error`` itself."""
    cause: Any = error.orig if isinstance(error, DBAPIError) else error
    sqlstate = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    message = getattr(getattr(cause, "diag", None), "message_primary", None) or str(cause)
    found = refusal(sqlstate, message, schema)
    if isinstance(found, CallRefused):
        raise StartRefused(message) from error
    raise found or error

"""The rights of a role that runs nodes and clients, and does not own the database: no more than they need."""

from typing import Final

import psycopg
from psycopg import AsyncConnection, sql
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.database import raw_connection
from perdure_eventstore.errors import LogError, domain_error

_LOG: Final = ("events", "payloads")
_VERSION: Final = "alembic_version"
_KEEPER: Final = ("erase_payloads", "erase_archived", "remove_archived", "record_keeping")
"""What takes something out of the log: the owner's alone."""
_OWNERS: Final = {"keeper": "", "archived": "select", "keys": "select, insert"}
"""Tables in which the owner alone may do the rest: erase, archive, rotate."""

# A table that refuses changes may still be added to; the log itself only through its functions.
_TABLES: Final = """select c.relname, exists (select from pg_trigger t join pg_proc p on p.oid = t.tgfoid
        where t.tgrelid = c.oid and p.proname = 'refuse_change')
    from pg_class c where c.relnamespace = %s::regnamespace and c.relkind in ('r', 'p')"""


async def grant_node(engine: AsyncEngine, schema: str, role: str) -> None:
    """Let ``role`` run nodes and clients: read everything, append through the functions, keep the working set.

    Erasing, archiving and rotating the master key stay with the owner of the schema.
    To be said again after each migration. Raises LogError, for a role that is not there too.
    """
    async with raw_connection(engine) as connection, connection.transaction():
        try:
            await _grant(connection, sql.Identifier(schema), sql.Identifier(role))
        except psycopg.errors.UndefinedObject as error:
            raise LogError(f"there is no role {role!r}; create it first: create role {role} login") from error
        except psycopg.Error as error:
            raise domain_error(error) from error


async def _grant(connection: AsyncConnection, schema: sql.Identifier, role: sql.Identifier) -> None:
    await connection.execute(sql.SQL("grant usage on schema {} to {}").format(schema, role))
    for kind in ("functions", "sequences"):
        right = "execute" if kind == "functions" else "select"
        statement = f"grant {right} on all {kind} in schema {{}} to {{}}"
        await connection.execute(sql.SQL(statement).format(schema, role))
    for function in _KEEPER:
        revoke = sql.SQL("revoke execute on function {}.{} from {}")
        await connection.execute(revoke.format(schema, sql.Identifier(function), role))
    found = await connection.execute(_TABLES, (schema.as_string(connection),))
    for table, final in await found.fetchall():
        rights = "select, insert, update, delete"
        if table in _LOG or table == _VERSION:
            rights = "select"
        elif final:
            rights = "select, insert"
        if not (rights := _OWNERS.get(table, rights)):
            continue
        statement = f"grant {rights} on {{}}.{{}} to {{}}"
        await connection.execute(sql.SQL(statement).format(schema, sql.Identifier(table), role))

"""Archived events for a fold: a view that is folded from position 0 again must not lose the runs that are in files.

The rule: rows of archived runs stay in the views; StreamArchived takes nothing from them. Whoever empties a view and
folds it again does so beside the archives, as ``beside_archives`` sets it up.
"""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from perdure_eventstore.archive.files import entries
from perdure_eventstore.events import RecordedEvent

_BATCH = 1_000
_TABLES = """create temporary table events (like "{schema}".events) on commit drop;
    create temporary table payloads (like "{schema}".payloads) on commit drop;
    insert into pg_temp.payloads select * from "{schema}".payloads;
    insert into pg_temp.events overriding system value select * from "{schema}".events"""
_INDEXES = """create unique index on pg_temp.events (position);
    create index on pg_temp.events (stream, version); analyze pg_temp.events"""
_COLUMNS = RecordedEvent._fields


async def beside_archives(connection: AsyncConnection[Any], files: Iterable[Path], schema: str = "perdure") -> int:
    """For the open transaction, make ``events`` and ``payloads`` the log and what is in ``files``; returns how many
    events those held.

    Temporary tables stand before every schema, so a projection's ``apply`` on this connection reads them. They are as
    large as the log: this is for folding anew, not for every day. Raises TransferRefused, OSError.
    """
    for statement in _TABLES.format(schema=schema).split(";"):
        await connection.execute(statement.encode())
    insert = f"""insert into pg_temp.events ({", ".join(_COLUMNS)})
        values ({", ".join(["%s"] * len(_COLUMNS))})"""
    archived, count = (entry.event for file in files for entry in entries(file)), 0
    async with connection.cursor() as cursor:
        while batch := [_row(event) for event in islice(archived, _BATCH)]:
            await cursor.executemany(insert.encode(), batch)
            count += len(batch)
    for statement in _INDEXES.split(";"):
        await connection.execute(statement.encode())
    return count


def _row(event: RecordedEvent) -> list[Any]:
    """json columns take text."""
    return list(event._replace(data=event.data.decode(), metadata=event.metadata.decode()))  # type: ignore[arg-type]

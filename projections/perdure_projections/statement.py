"""A fold that is one SQL statement over a range of the log."""

from typing import Any

from psycopg import AsyncConnection

from perdure_projections.projection import Apply


def fold(statement: str) -> Apply:
    """``apply`` as one statement with the parameters ``%(first)s`` and ``%(last)s``."""

    async def apply(connection: AsyncConnection[Any], first: int, last: int) -> None:
        # Unprepared, so that it is planned for this very range; a plan for any range expects a share of the table.
        await connection.execute(statement, {"first": first, "last": last}, prepare=False)

    return apply


def message(event: str) -> str:
    """SQL for the short text of the failure in the ``events`` row named ``event``; null if that was erased."""
    payload = f"""coalesce({event}.payload, (select p.payload from payloads p
            where p.stream = {event}.stream and p.version = {event}.version))"""
    return f"""(select left(coalesce(found.error ->> 'message', found.error #>> '{{}}'), 1000)
        from (select convert_from({payload}, 'UTF8')::json -> 'error' as error) found)"""

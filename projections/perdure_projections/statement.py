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
    """SQL for the short text of the failure in the ``events`` row named ``event``; null if erased, or encrypted."""
    payload = f"""coalesce({event}.payload, (select p.payload from payloads p
            where p.stream = {event}.stream and p.version = {event}.version))"""
    # A frame begins with a byte below 0x20, and is no text.
    return f"""(select left(coalesce(found.error ->> 'message', found.error #>> '{{}}'), 1000)
        from (select case when length(stored.payload) > 0 and get_byte(stored.payload, 0) >= 32
                then convert_from(stored.payload, 'UTF8')::json -> 'error' end as error
            from (select {payload} as payload) stored) found)"""

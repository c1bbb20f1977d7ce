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


def member(event: str, name: str) -> str:
    """SQL for a member of the payload of the ``events`` row named ``event``, as json.

    It is null where the payload was erased, and where it is no text at all, as an encrypted one is not.
    """
    return f"""(select case when substring(found.payload from 1 for 1) = '\\x7b'::bytea
                then convert_from(found.payload, 'UTF8')::json -> '{name}' end
            from (select coalesce({event}.payload, (select p.payload from payloads p
                where p.stream = {event}.stream and p.version = {event}.version)) as payload) found)"""


def message(event: str) -> str:
    """SQL for the short text of the failure in the ``events`` row named ``event``; null if erased, or encrypted."""
    return f"""(select left(coalesce(caught.error ->> 'message', caught.error #>> '{{}}'), 1000)
        from (select {member(event, "error")} as error) caught)"""

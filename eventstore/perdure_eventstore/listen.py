"""Hints from other processes: one connection that listens, and calls back."""

import asyncio
from collections.abc import Callable

import psycopg
import structlog
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.errors import LogError, domain_error
from perdure_eventstore.session import Session

log = structlog.get_logger(__name__)


async def listen(engine: AsyncEngine, channel: str, hinted: Callable[[str], None]) -> None:
    """Call ``hinted`` with the text of every notification, for ever; cancel to end.

    After a lost connection it is called as well, with no text.
    """
    session = Session(engine)
    try:
        while True:
            try:
                connection = await session.connection()
                await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
                hinted("")
                async for notice in connection.notifies():
                    hinted(notice.payload)
            except (psycopg.Error, LogError) as error:
                reason = domain_error(error) if isinstance(error, psycopg.Error) else error
                log.info("hints stopped coming, polling meanwhile", error=str(reason))
                await session.close()
                await asyncio.sleep(1.0)
    finally:
        await session.close()

"""Archiving: old runs and published events, out of the log and into files."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from perdure.client import Client
from perdure.errors import PerdureError
from perdure_engine.retention import Old, Retention
from perdure_eventstore.archive.moving import Moved, move, removable
from perdure_eventstore.session import Session
from perdure_eventstore.transfer.presence import may_remove

STREAMS_A_FILE = 10_000


class ArchiveRefused(PerdureError):
    """Nothing can be archived as things are. The message says why."""


class Reader(NamedTuple):
    """Somebody who reads the log, and how far that one has come."""

    name: str
    position: int


async def archive(
    client: Client,
    folder: Path,
    older_than: timedelta,
    *,
    workflow: str | None = None,
    limit: int | None = None,
    moved: Callable[[Moved], object] = lambda moved: None,
) -> list[Moved]:
    """Move what nothing has happened to for ``older_than`` to files in ``folder``: ended runs and routed events.

    ``workflow``: its runs alone. ``limit``: so many streams at most. ``moved`` is told of every file once its streams
    are removed. What a view or a subscription has still to read stays. Raises ArchiveRefused, TransferRefused,
    LogError, OSError.
    """
    if not folder.is_dir():
        raise ArchiveRefused(f"the folder for archives is missing: {folder}")
    session, files = Session(client.engine), list[Moved]()
    try:
        if not await may_remove(session, client.schema):
            raise ArchiveRefused("somebody else is archiving or exporting this log just now")
        now = (await session.fetch("select clock_timestamp()"))[0][0]
        last = min(await removable(session, client.schema), (await slowest(session, client.schema)).position)
        old = Old(now - older_than, last, workflow)
        async for chosen in _bundles(Retention(session, client.schema).pages(old), limit):
            files.append(await move(client.engine, session, chosen, folder, client.schema))
            moved(files[-1])
    finally:
        await session.close()
    return files


async def _bundles(pages: AsyncIterator[list[UUID]], limit: int | None) -> AsyncIterator[list[UUID]]:
    """The streams of one file after another, ``limit`` in all."""
    chosen: list[UUID] = []
    async for page in pages:
        chosen += page if limit is None else page[:limit]
        limit = None if limit is None else limit - len(page[:limit])
        while len(chosen) >= STREAMS_A_FILE:
            yield chosen[:STREAMS_A_FILE]
            chosen = chosen[STREAMS_A_FILE:]
        if limit == 0:
            break
    if chosen:
        yield chosen


async def slowest(session: Session, schema: str = "perdure") -> Reader:
    """Who is furthest behind of those that read the whole log: the views, the subscriptions. Raises LogError.

    The router is not: it has routed what is old enough, and records that in the event's own stream.
    """
    rows = await session.fetch(
        f"""select 'the view of ' || name, position from "{schema}".projections
            union all select 'the subscription ' || name, position from "{schema}".subscriptions
            order by 2 limit 1"""
    )
    return Reader(*rows[0]) if rows else Reader("nobody", 0)

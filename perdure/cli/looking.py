"""Looking into a database: a client, and views that are up to date."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from perdure import App
from perdure.cli.output import warn
from perdure.client import Client
from perdure.connected import connected
from perdure_engine.background import Background
from perdure_eventstore.feed import Feed
from perdure_eventstore.session import Session
from perdure_projections.builtin import BUILTIN
from perdure_projections.runner import ProjectionRunner

_PATIENCE = 10.0
"""Seconds the views may take to catch up before they are shown as they are."""
_POLL = 0.05


@asynccontextmanager
async def looking(app: App, *, views: bool = True) -> AsyncIterator[Client]:
    """A client of the application's database, the views caught up where they are wanted."""
    async with connected(app.database_name, app.types, app.schema, app.settings) as client:
        if views:
            await catch_up(client.engine, app.schema)
        yield client


async def catch_up(engine: AsyncEngine, schema: str) -> None:
    """Fold what is in the log now into the views: no node may be running that does it."""
    session = Session(engine)
    try:
        last = (await session.fetch(f'select coalesce(max(position), 0) from "{schema}".events'))[0][0]
    finally:
        await session.close()
    feed = Feed(engine, schema, _POLL)
    runner = ProjectionRunner(engine, feed, schema, BUILTIN)
    async with Background() as background:
        background.spawn(feed.run())
        try:
            async with asyncio.timeout(_PATIENCE):
                stopped = await runner.catch_up(last)
        except TimeoutError:
            warn("the views are behind the log; what follows may be a little old")
            return
        finally:
            await runner.close()
    if stopped:
        warn(f"the view of {' and '.join(stopped)} has stopped before the end of the log; what follows is old")

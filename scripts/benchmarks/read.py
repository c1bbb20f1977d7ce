"""Reading the whole log in order, every event decoded; and how much memory that takes."""

import argparse
import asyncio
import resource
import time

from append import appending, database, fill, report
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure.collector import spare_collector
from perdure.database import opened
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session


async def read_all(engine: AsyncEngine, page: int) -> tuple[int, float]:
    """How many events there are, and the seconds it took."""
    session = Session(engine)
    try:
        reader, position, count, begun = Reader(session), 0, 0, time.perf_counter()
        while events := await reader.span(position, 2**62, limit=page):
            position, count = events[-1].position, count + len(events)
        return count, time.perf_counter() - begun
    finally:
        await session.close()


def memory() -> int:
    """The most this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


async def main() -> None:
    options = _arguments()
    with database(options.database) as name:
        async with opened(name, "perdure") as engine:
            async with appending(engine) as appender:
                await fill(appender, min(options.events, 20_000))
                await read_all(engine, options.page)
                before = memory()
                await fill(appender, options.events - 20_000)
            spare_collector()
            for _ in range(options.times):
                count, seconds = await read_all(engine, options.page)
                found = {"peer": "perdure read", "events": count, "events_per_s": round(count / seconds)}
                report(options.json, {**found, "MiB_at_20000": before, "MiB": memory()})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench read", description=__doc__)
    parser.add_argument("--database", help="a scratch database by URL; without it, an embedded one that is thrown away")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--page", type=int, default=1_000, help="events a query")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="JSON Lines")
    return parser.parse_args()


asyncio.run(main())

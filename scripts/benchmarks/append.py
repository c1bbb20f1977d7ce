"""Appending: one caller with batches of several sizes, and many callers of single events at once."""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from perdure.collector import spare_collector
from perdure.database import opened
from perdure_engine.identity import new_id
from perdure_eventstore.append import Append
from perdure_eventstore.appender import Appender
from perdure_eventstore.events import NO_STREAM, NewEvent

DATA = b'{"task_id":"send_welcome_email","result":{"status":"ok","id":12345},"attempt":1,"duration_ms":12.5}'
"""The very bytes that the peers' benchmark appends."""


IDS: dict[str, Callable[[], UUID]] = {"drawn": new_id, "random": uuid4}
"""How a stream's id is drawn: in the order of time, as Perdure draws those of runs and events, or at random."""


def begin(events: int, draw: Callable[[], UUID] = new_id) -> Append:
    """A new stream of ``events`` events."""
    return Append(draw(), NO_STREAM, [NewEvent("TaskCompleted", DATA)] * events)


async def one_caller(appender: Appender, events: int, seconds: float, draw: Callable[[], UUID]) -> float:
    """Events a second, each batch awaited before the next is sent."""
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        await appender.append(begin(events, draw))
        count += events
    return count / (time.perf_counter() - begun)


async def many_callers(appender: Appender, callers: int, seconds: float, draw: Callable[[], UUID]) -> float:
    """Events a second of ``callers`` that append one event at a time, each to a stream of its own."""
    begun, counts = time.perf_counter(), [0] * callers

    async def call(n: int) -> None:
        stream, head = draw(), NO_STREAM
        while time.perf_counter() - begun < seconds:
            appended = await appender.append(Append(stream, head, [NewEvent("TaskCompleted", DATA)]))
            head, counts[n] = appended.head, counts[n] + 1

    await asyncio.gather(*(call(n) for n in range(callers)))
    return sum(counts) / (time.perf_counter() - begun)


async def fill(appender: Appender, events: int, draw: Callable[[], UUID] = new_id) -> None:
    """Append ``events`` events, a thousand a stream."""
    for first in range(0, events, 8_000):
        sizes = [min(1_000, events - start) for start in range(first, min(first + 8_000, events), 1_000)]
        await asyncio.gather(*(appender.append(begin(size, draw)) for size in sizes))


@asynccontextmanager
async def appending(engine: AsyncEngine) -> AsyncIterator[Appender]:
    """An appender at work."""
    appender = Appender(engine)
    working = asyncio.create_task(appender.run())
    try:
        yield appender
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def main() -> None:
    options = _arguments()
    with database(options.database) as name:
        async with opened(name, "perdure") as engine, appending(engine) as appender:
            draw = IDS[options.ids]
            await fill(appender, options.log, draw)
            await one_caller(appender, 10, 0.3, draw)
            spare_collector()
            for events in options.batches:
                rate = await one_caller(appender, events, options.seconds, draw)
                _say(options, {"callers": 1, "batch": events, "events_per_s": round(rate)})
            rate = await many_callers(appender, options.callers, options.seconds, draw)
            _say(options, {"callers": options.callers, "batch": 1, "events_per_s": round(rate)})


def _say(options: argparse.Namespace, found: dict[str, Any]) -> None:
    report(options.json, {"peer": "perdure append", "log": options.log, **found})


@contextmanager
def database(named: str | None) -> Iterator[str]:
    """The database named, or an embedded one that is thrown away."""
    if named is not None:
        yield named
        return
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        yield f"embedded:{folder}/database"


def report(as_json: bool, found: dict[str, Any]) -> None:
    """A line for machines or for people."""
    print(json.dumps(found) if as_json else "  ".join(f"{name} {value}" for name, value in found.items()), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench append", description=__doc__)
    parser.add_argument("--database", help="a scratch database by URL; without it, an embedded one that is thrown away")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--log", type=int, default=0, help="events that are in the log before")
    parser.add_argument("--ids", choices=IDS, default="drawn", help="how streams get their ids (default: %(default)s)")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", action="store_true", help="JSON Lines")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())

"""The check of the whole log: chains, payloads, tree and heads, over a log that is filled first."""

import argparse
import asyncio
import json
import resource
import tempfile
import time
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from perdure.database import opened
from perdure_eventstore.append import Append, Appended, Batch, Statement, send
from perdure_eventstore.clock import Clock
from perdure_eventstore.database import raw_connection
from perdure_eventstore.events import NO_STREAM, Head, NewEvent
from perdure_eventstore.session import Session
from perdure_eventstore.tree import Tree
from perdure_eventstore.verify import verify

_BATCH = 1_000
_STREAMS, _EVENTS = 50, 20
"""In each batch goes one event of each of so many streams, until each has so many."""


def _event(number: int) -> NewEvent:
    """As a run has them: facts in the clear, and every other one with a payload."""
    data = b'{"task_id":"step-%d","attempt":1,"node":"0190f1b2-5c3e-7d44-9a51-%012d"}' % (number % 10, number)
    payload = b'{"status":"ok","id":%d,"note":"what a small task gives back"}' % number if number % 2 else None
    return NewEvent("TaskCompleted" if number % 2 else "TaskStarted", data, payload, b'{"actor":"node"}')


async def fill(engine: AsyncEngine, events: int) -> None:
    """Append ``events`` events, interleaved streams of 20."""
    clock, statement, made = Clock(), Statement(), 0
    async with raw_connection(engine) as connection:
        while made < events:
            heads: dict[UUID, Head] = {uuid4(): NO_STREAM for _ in range(_BATCH // 4)}
            for _ in range(_EVENTS // 4):
                appends = [
                    Append(stream, head, [_event(made + n * 4 + i) for i in range(4)])
                    for n, (stream, head) in enumerate(heads.items())
                ]
                answers = await send(connection, statement, Batch(appends), clock)
                for append, answer in zip(appends, answers, strict=True):
                    assert isinstance(answer, Appended)
                    heads[append.stream] = answer.head
                made += _BATCH
        await connection.execute("vacuum analyze perdure.events")


async def main() -> None:
    options = _arguments()
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="perdure-bench-"))
        engine = await stack.enter_async_context(opened(options.database or f"embedded:{folder}/database", "perdure"))
        begun = time.perf_counter()
        await fill(engine, options.events)
        filled = time.perf_counter()
        session = Session(engine)
        extent = await Tree(session).grow(2**62)
        await session.close()
        grown = time.perf_counter()
        cpu = time.process_time()
        async with raw_connection(engine) as connection:
            progress = [each async for each in verify(connection)][-1]
        seconds, cpu = time.perf_counter() - grown, time.process_time() - cpu
        assert progress.fault is None and progress.events >= options.events
    report = {
        "peer": "perdure",
        "events": progress.events,
        "events_per_s": round(progress.events / seconds),
        "seconds": round(seconds, 2),
        "own_cpu_seconds": round(cpu, 2),
        "fill_events_per_s": round(extent.size / (filled - begun)),
        "tree_us_per_event": round((grown - filled) / extent.size * 1e6, 2),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    if options.json:
        print(json.dumps(report))
    else:
        print("\n".join(f"{name:>24}  {value}" for name, value in report.items()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench verify", description=__doc__)
    parser.add_argument(
        "--database", help="a scratch database by URL; without it, an embedded one in a temporary folder"
    )
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser.parse_args()


asyncio.run(main())

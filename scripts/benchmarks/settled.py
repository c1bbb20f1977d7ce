"""The settled mark beside the rule it was preferred to: 8 writers that roll back and dawdle, next to a transaction
that has nothing to do with the log and stays open. How many events does each rule let a reader see, and how late?"""

import argparse
import asyncio
import random
import statistics
import time
from typing import Any

from append import begin, database, report
from psycopg import AsyncConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure.database import opened
from perdure_eventstore.append import Batch, Statement, send
from perdure_eventstore.clock import Clock
from perdure_eventstore.database import raw_connection
from perdure_eventstore.feed import Feed
from perdure_eventstore.session import Session

WRITERS = 8

XID_RULE = """select count(*), count(*) filter (where xmin::text::bigint < %s) from perdure.events
    where position > %s"""
"""Visible are only events of transactions older than the oldest that still writes, anywhere in the cluster."""


async def write(engine: AsyncEngine, feed: Feed, seed: int, until: float, committed: dict[int, float]) -> None:
    """Transactions of one or two appends, some delayed, some rolled back; what was committed, and when."""
    chance, statement, clock = random.Random(seed), Statement(), Clock()
    async with raw_connection(engine) as connection:
        while time.perf_counter() < until:
            await connection.execute("begin")
            positions: list[int] = []
            for _ in range(chance.randint(1, 2)):
                answers = await send(connection, statement, Batch([begin(chance.randint(1, 20))]), clock)
                positions += [position for answer in answers if answer for position in answer.positions]
                await asyncio.sleep(chance.choice([0, 0, 0, 0.001, 0.01]))
            if chance.random() < 0.1:
                await connection.execute("rollback")
                continue
            await connection.execute("commit")
            now = time.perf_counter()
            committed.update((position, now) for position in positions)
            feed.hint()


async def follow(engine: AsyncEngine, feed: Feed, seen: dict[int, float], doubled: list[int]) -> None:
    """Read by the settled mark."""
    session, position = Session(engine), 0
    try:
        while True:
            mark = await feed.beyond(position)
            rows = await session.fetch(
                "select position from perdure.events where position > %s and position <= %s", (position, mark)
            )
            now = time.perf_counter()
            for (found,) in rows:
                if seen.setdefault(found, now) != now:
                    doubled.append(found)
            position = mark
    finally:
        await session.close()


async def unrelated(connection: AsyncConnection[Any]) -> int:
    """Begin a writing transaction that never touches the log, and return its number."""
    await connection.execute("create table if not exists public.unrelated (n integer)")
    await connection.execute("begin")
    row = await (await connection.execute("select pg_current_xact_id()::text::bigint")).fetchone()
    assert row is not None
    return int(row[0])


async def main() -> None:
    options = _arguments()
    committed: dict[int, float] = {}
    seen: dict[int, float] = {}
    doubled: list[int] = []
    with database(options.database) as name:
        async with opened(name, "perdure") as engine, raw_connection(engine) as idle:
            session = Session(engine)
            first = (await session.fetch("select coalesce(max(position), 0) from perdure.events"))[0][0]
            oldest = await unrelated(idle)
            feed = Feed(engine)
            reading = [asyncio.create_task(feed.run()), asyncio.create_task(follow(engine, feed, seen, doubled))]
            until = time.perf_counter() + options.seconds
            await asyncio.gather(*(write(engine, feed, options.seed + n, until, committed) for n in range(WRITERS)))
            await asyncio.sleep(2.0)
            written, by_xid = (await session.fetch(XID_RULE, (oldest, first)))[0]
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
            await session.close()
    late = sorted(seen[position] - at for position, at in committed.items() if position in seen)
    report(
        options.json,
        {
            "seed": options.seed, "seconds": options.seconds, "written": written,
            "read_by_the_settled_mark": sum(position > first for position in seen), "read_twice": len(doubled),
            "missed": len(committed.keys() - seen.keys()), "late_ms_p50": round(statistics.median(late) * 1e3, 1),
            "late_ms_p99": round(late[int(len(late) * 0.99)] * 1e3, 1), "read_by_the_xid_rule": by_xid,
        },
    )  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench settled", description=__doc__)
    parser.add_argument("--database", help="a scratch database by URL; without it, an embedded one that is thrown away")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser.parse_args()


asyncio.run(main())

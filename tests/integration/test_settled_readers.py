"""A crowd of writers that roll back, dawdle, use savepoints and prepare: who reads by the settled mark misses nothing.

The same history is read by the naive rule, "position > n", and the checker must find that one wrong: a checker that
finds nothing wrong with anything would prove nothing.
"""

import asyncio
from collections import Counter
from itertools import pairwise
from random import Random
from time import monotonic
from typing import Any
from uuid import uuid4

import anyio
import pytest
from logs import new_stream, opened, reading, rows, superuser
from psycopg import AsyncConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.append import Batch, Statement, send
from perdure_eventstore.clock import Clock
from perdure_eventstore.database import raw_connection
from perdure_eventstore.feed import Feed

pytestmark = pytest.mark.every_postgres

WRITERS = 8
SECONDS = 2.0


def faults(history: list[int], committed: set[int]) -> list[str]:
    """What is wrong with the positions somebody has read, in their order, given those that were committed."""
    found = [f"{position} was read {count} times" for position, count in Counter(history).items() if count > 1]
    found += [f"{position} was never read" for position in sorted(committed - set(history))]
    found += [f"{position} was read and never committed" for position in sorted(set(history) - committed)]
    found += [f"{b} came after {a}" for a, b in pairwise(history) if b < a]
    return found


def test_the_checker_finds_what_is_wrong() -> None:
    assert faults([1, 2, 4], {1, 2, 4}) == []
    assert faults([1, 4], {1, 2, 4}) == ["2 was never read"]
    assert faults([1, 2, 2], {1, 2}) == ["2 was read 2 times"]
    assert faults([1, 3], {1}) == ["3 was read and never committed"]
    assert faults([2, 1], {1, 2}) == ["1 came after 2"]


async def append(connection: AsyncConnection[Any], random: Random) -> None:
    await send(connection, Statement(), Batch([new_stream(random.randint(1, 3))]), Clock())
    await asyncio.sleep(random.choice([0, 0, 0.001, 0.005, 0.03]))


async def write(engine: AsyncEngine, seed: int, until: float) -> None:
    """One writer's day: short and long transactions, some undone in part or whole, some prepared."""
    random = Random(seed)
    async with raw_connection(engine) as connection:
        while monotonic() < until:
            await connection.execute("begin")
            await append(connection, random)
            if random.random() < 0.3:
                await connection.execute("savepoint a")
                await append(connection, random)
                if random.random() < 0.5:
                    await connection.execute("rollback to a")
                    await append(connection, random)
            if random.random() < 0.1:
                name = uuid4().hex
                await connection.execute(f"prepare transaction '{name}'".encode())
                await asyncio.sleep(random.choice([0, 0.02]))
                await connection.execute(f"{random.choice(['commit', 'rollback'])} prepared '{name}'".encode())
            else:
                await connection.execute(random.choice([b"commit", b"commit", b"commit", b"rollback"]))


async def follow(engine: AsyncEngine, feed: Feed, history: list[int]) -> None:
    async with reading(engine) as reader:
        position = 0
        while True:
            mark = await feed.beyond(position)
            while events := await reader.span(position, mark, limit=50):
                history.extend(event.position for event in events)
                position = events[-1].position
            position = mark


async def follow_naively(engine: AsyncEngine, history: list[int]) -> None:
    async with reading(engine) as reader:
        position = 0
        while True:
            for event in await reader.span(position, 2**62):
                history.append(event.position)
                position = event.position
            await asyncio.sleep(0.001)


async def test_every_committed_event_is_read_exactly_once_and_in_order(database_url: str) -> None:
    settled: list[int] = []
    naive: list[int] = []
    async with opened(database_url, pool_size=WRITERS + 5) as engine:
        with superuser(database_url) as unrelated:
            unrelated.execute("create table public.unrelated (n int)")
            unrelated.execute("begin")
            unrelated.execute("insert into public.unrelated values (1)")
            async with anyio.create_task_group() as readers:
                feed = Feed(engine, interval=0.01)
                readers.start_soon(feed.run)
                readers.start_soon(follow, engine, feed, settled)
                readers.start_soon(follow_naively, engine, naive)
                async with anyio.create_task_group() as writers:
                    for seed in range(WRITERS):
                        writers.start_soon(write, engine, seed, monotonic() + SECONDS)
                seen_while_writing = len(settled)
                committed = {position for (position,) in rows(database_url, "select position from perdure.events")}
                with anyio.fail_after(10):
                    while settled[-1:] != [max(committed)]:
                        await asyncio.sleep(0.005)
                readers.cancel_scope.cancel()
            # A rule by transaction ids would show nothing yet: this one is older than every event, and still open.
            oldest = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
            assert rows(database_url, f"select min(xmin::text::bigint) > {oldest} from perdure.events") == [(True,)]
            unrelated.execute("rollback")
    assert len(committed) > 100
    assert faults(settled, committed) == []
    assert seen_while_writing > len(committed) / 2
    assert any("never read" in fault for fault in faults(naive, committed))

"""A crowd of writers that roll back, dawdle, use savepoints and prepare: who reads by the settled mark misses nothing.

The same history is read by the naive rule, "position > n", and the checker must find that one wrong: a checker that
finds nothing wrong with anything would prove nothing. With a restart in the middle: tests/bad_days/test_restart.py.
"""

import asyncio
from random import Random
from time import monotonic
from typing import Any
from uuid import uuid4

import anyio
import pytest
from log_checker import Fact, log_findings, reader_findings
from logs import new_stream, opened, reading, rows, superuser
from psycopg import AsyncConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.append import Batch, Statement, send
from perdure_eventstore.clock import Clock
from perdure_eventstore.database import raw_connection
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.feed import Feed

pytestmark = pytest.mark.every_postgres

WRITERS = 8
SECONDS = 2.0


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


def fact(event: RecordedEvent) -> Fact:
    return Fact(event.position, str(event.stream), event.version, str(event.id))


async def follow(engine: AsyncEngine, feed: Feed, history: list[Fact]) -> None:
    async with reading(engine) as reader:
        position = 0
        while True:
            mark = await feed.beyond(position)
            while events := await reader.span(position, mark, limit=50):
                history.extend(map(fact, events))
                position = events[-1].position
            position = mark


async def follow_naively(engine: AsyncEngine, history: list[Fact]) -> None:
    async with reading(engine) as reader:
        position = 0
        while True:
            for event in await reader.span(position, 2**62):
                history.append(fact(event))
                position = event.position
            await asyncio.sleep(0.001)


async def test_every_committed_event_is_read_exactly_once_and_in_order(database_url: str) -> None:
    settled: list[Fact] = []
    naive: list[Fact] = []
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
                committed = [
                    Fact(position, str(stream), version, str(id_))
                    for position, stream, version, id_ in rows(
                        database_url, "select position, stream, version, id from perdure.events order by position"
                    )
                ]
                with anyio.fail_after(10):
                    while settled[-1:] != committed[-1:]:
                        await asyncio.sleep(0.005)
                readers.cancel_scope.cancel()
            # A rule by transaction ids would show nothing yet: this one is older than every event, and still open.
            oldest = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
            assert rows(database_url, f"select min(xmin::text::bigint) > {oldest} from perdure.events") == [(True,)]
            unrelated.execute("rollback")
    assert len(committed) > 100
    assert [*log_findings(committed), *reader_findings(settled, committed)] == []
    assert seen_while_writing > len(committed) / 2
    assert any("never read" in fault for fault in reader_findings(naive, committed))

"""What the tests of consumers share: a ledger that they write, and the checker of what it says."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from random import Random, uniform
from typing import Any, NamedTuple
from uuid import UUID

from logs import execute, more, new_stream, opened, rows
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from perdure_eventstore.appender import Appender
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.feed import Feed
from perdure_eventstore.subscription import Consume, Subscription
from perdure_eventstore.terms import Terms

_INSERT = text("insert into public.ledger (event, stream, version, pid) values (:event, :stream, :version, :pid)")


class Entry(NamedTuple):
    """An event as a consumer took it, or as the log holds it."""

    event: UUID
    stream: UUID
    version: int


def faults(consumed: Sequence[Entry], recorded: Sequence[Entry]) -> list[str]:
    """What is wrong with what was consumed, in that order, given what was recorded."""
    found = [f"{entry} was consumed {n} times" for entry, n in Counter(consumed).items() if n > 1]
    found += [f"{entry} was never consumed" for entry in sorted({*recorded} - {*consumed})]
    found += [f"{entry} was consumed and never recorded" for entry in sorted({*consumed} - {*recorded})]
    last: dict[UUID, Entry] = {}
    for entry in consumed:
        before = last.get(entry.stream)
        if before is not None and entry.version < before.version:
            found.append(f"{entry} came after {before}")
        last[entry.stream] = entry
    return found


def make_ledger(url: str) -> None:
    execute(
        url,
        "create table public.ledger (n bigint generated always as identity primary key, event uuid not null, "
        "stream uuid not null, version int not null, pid int not null)",
    )


def ledger(url: str) -> list[Entry]:
    """What was consumed, in order."""
    return [Entry(*row) for row in rows(url, "select event, stream, version from public.ledger order by n")]


def recorded(url: str, condition: str = "true") -> list[Entry]:
    """What the log holds, in order."""
    query = f"select id, stream, version from perdure.events where {condition} order by position"
    return [Entry(*row) for row in rows(url, query)]


async def book(events: Sequence[RecordedEvent], connection: AsyncConnection) -> None:
    """A consumer that writes the events down."""
    entries = [{"event": e.id, "stream": e.stream, "version": e.version, "pid": os.getpid()} for e in events]
    await connection.execute(_INSERT, entries)


def positions(url: str, name: str) -> list[int]:
    """Where each part of a subscription stands."""
    found = rows(url, "select position from perdure.subscriptions where name = %s order by part", (name,))
    return [position for (position,) in found]


@asynccontextmanager
async def feeding(engine: AsyncEngine, interval: float = 0.02) -> AsyncIterator[Feed]:
    feed = Feed(engine, interval=interval)
    async with beside(feed.run()):
        yield feed


@asynccontextmanager
async def consuming(
    engine: AsyncEngine, consume: Consume = book, *, consumers: int = 1, interval: float = 0.02, **terms: Any
) -> AsyncIterator[Subscription]:
    """A subscription with consumers at work, which polls and is given no hints but notifications."""
    async with feeding(engine, interval) as feed, AsyncExitStack() as stack:
        subscription = Subscription(engine, feed, Terms(**terms))
        for _ in range(consumers):
            await stack.enter_async_context(beside(subscription.run(consume)))
        yield subscription


@asynccontextmanager
async def beside(work: Any) -> AsyncIterator[None]:
    """``work`` under way until the block ends; it fails if the work did."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def write(appender: Appender, random: Random, events: int, streams: int = 5) -> None:
    """Append to a few streams, in small steps."""
    heads: list[Any] = []
    for n in range(events):
        if len(heads) < streams:
            begin = new_stream()
            heads.append((begin.stream, (await appender.append(begin)).head))
        else:
            place = random.randrange(streams)
            stream, head = heads[place]
            heads[place] = (stream, (await appender.append(more(stream, head))).head)
        if n % 20 == 0:
            await asyncio.sleep(random.choice([0, 0.001, 0.01]))


async def book_slowly(events: Sequence[RecordedEvent], connection: AsyncConnection) -> None:
    """One who is killed is mostly killed here: with nothing written, or with all of it and no checkpoint."""
    await asyncio.sleep(uniform(0, 0.03))
    await book(events, connection)
    await asyncio.sleep(uniform(0, 0.03))


async def consume_for_ever(url: str, name: str, parts: int, consumers: int, batch: int) -> None:
    """What a consumer's process does until it is killed."""
    terms: dict[str, Any] = {"name": name, "parts": parts, "batch": batch, "start": "beginning"}
    async with opened(url) as engine, consuming(engine, book_slowly, consumers=consumers, **terms):
        await asyncio.Event().wait()

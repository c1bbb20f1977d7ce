"""A caller's transaction that stays open, with something published in it, while others use the log as hard as they can.

``beside_an_open_transaction`` lasts as long as it is told to: a few seconds in the suite, a minute in the chaos run.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from time import monotonic
from typing import NamedTuple
from uuid import uuid4

from logs import new_stream, opened, reading, rows, running
from psycopg import AsyncConnection

import perdure
from perdure_eventstore.appender import Appender
from perdure_eventstore.feed import Feed
from perdure_eventstore.read import Reader

_WRITERS = 16
_PUBLISHERS = 2
_LOCKS = """select relation::regclass::text, mode from pg_locks
    where pid = %s and relation is not null and relation::regclass::text not like 'pg\\_%%'"""


class Seen(NamedTuple):
    """What happened beside the open transaction."""

    before: float
    """Appends a second while it was not open."""
    during: float
    """Appends a second while it was."""
    lag: float
    """The longest, in seconds, that a reader waited for an event that was acknowledged, while it was open."""
    locks: list[tuple[str, str]]
    """What it held in the schema at its end."""
    acknowledged: list[int]
    read: list[int]
    own: int
    """The position of the event that the open transaction published."""


def faults(url: str, seen: Seen, seconds: float) -> Iterator[str]:
    """What was held up, lost or doubled while the transaction was open for so many seconds."""
    # Were the log locked, nothing at all would be appended until the transaction ends; a machine that is busy with
    # something else may well make it five times slower.
    if seen.during <= seen.before / 20:
        yield f"{seen.during:.0f} appends/s beside the open transaction, {seen.before:.0f} before it"
    if seen.lag >= min(seconds, 10.0):
        yield f"a reader waited {seen.lag:.1f} s for what was acknowledged"
    if others := [table for table, _ in seen.locks if not table.removeprefix("perdure.").startswith(("stag",))]:
        yield f"the open transaction held locks on {', '.join(others)}"
    if seen.read != [position for (position,) in rows(url, "select position from perdure.events order by 1")]:
        yield "what was read is not the log, each event once and in order"
    if missing := {*seen.acknowledged, seen.own}.difference(seen.read):
        yield f"{len(missing)} events that were acknowledged were not read"


async def beside_an_open_transaction(url: str, seconds: float, seed: int) -> Seen:
    """Load for ``seconds`` without the transaction and as long with it; then it commits."""
    random, app = Random(seed), perdure.App(url)
    acknowledged: list[int] = []
    stopping = asyncio.Event()
    async with opened(url, pool_size=30) as engine, running(engine) as appender, reading(engine) as reader:
        feed = Feed(engine, interval=0.05)
        read: list[int] = []
        looking = asyncio.create_task(feed.run())
        following = asyncio.create_task(_follow(feed, reader, read))
        writing = [asyncio.create_task(_append(appender, acknowledged, stopping)) for _ in range(_WRITERS)]
        writing += [
            asyncio.create_task(_publish(app, url, Random(random.random()), stopping)) for _ in range(_PUBLISHERS)
        ]
        try:
            before = await _rate(acknowledged, seconds)
            async with await AsyncConnection.connect(url) as connection:
                event = await app.publish("at_last", {"seed": seed}, connection=connection)
                lag, during = await asyncio.gather(_lag(feed, acknowledged, seconds), _rate(acknowledged, seconds))
                locks = rows(url, _LOCKS, (connection.info.backend_pid,))
                assert rows(url, "select from perdure.events where stream = %s", (event.event_id,)) == []
                await connection.commit()
            stopping.set()
            await asyncio.gather(*writing)
            last = rows(url, "select max(position) from perdure.events")[0][0]
            await _until_read(feed, read, last)
            own = rows(url, "select position from perdure.events where stream = %s", (event.event_id,))[0][0]
        finally:
            for task in (looking, following, *writing):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
    return Seen(before, during, lag, locks, acknowledged, read, own)


async def _append(appender: Appender, acknowledged: list[int], stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        appended = await appender.append(new_stream(payload=b'{"n": 1}'))
        acknowledged.extend(appended.positions)


async def _publish(app: perdure.App, url: str, random: Random, stopping: asyncio.Event) -> None:
    """Short transactions of the caller's own, some of them rolled back."""
    async with await AsyncConnection.connect(url) as connection:
        while not stopping.is_set():
            await app.publish("in_between", event_id=uuid4(), connection=connection)
            await asyncio.sleep(random.choice([0, 0.001, 0.01]))
            await (connection.commit() if random.random() < 0.8 else connection.rollback())


async def _follow(feed: Feed, reader: Reader, read: list[int]) -> None:
    position = 0
    while True:
        mark = await feed.beyond(position)
        while found := await reader.span(position, mark):
            read += [event.position for event in found]
            position = found[-1].position
        position = mark


async def _rate(acknowledged: list[int], seconds: float) -> float:
    count, begun = len(acknowledged), monotonic()
    await asyncio.sleep(seconds)
    return (len(acknowledged) - count) / (monotonic() - begun)


async def _lag(feed: Feed, acknowledged: list[int], seconds: float) -> float:
    longest, until = 0.0, monotonic() + seconds
    while monotonic() < until:
        last, asked = acknowledged[-1] if acknowledged else 0, monotonic()
        async with asyncio.timeout(seconds + 10):
            await feed.beyond(last - 1)
        longest = max(longest, monotonic() - asked)
        await asyncio.sleep(0.02)
    return longest


async def _until_read(feed: Feed, read: list[int], last: int) -> None:
    async with asyncio.timeout(30):
        while not read or read[-1] < last:
            feed.hint()
            await asyncio.sleep(0.01)

"""The feed: it looks when it is told to, and now and then without, and comes back after it lost the database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from unittest.mock import patch

import anyio
import pytest
from logs import new_stream, opened, running, superuser
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.appender import Appender
from perdure_eventstore.feed import Feed
from perdure_eventstore.settled import SettledMark

pytestmark = pytest.mark.every_postgres

NEVER = 3600.0


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with opened(database_url) as engine:
        yield engine


@pytest.fixture
async def appender(engine: AsyncEngine) -> AsyncIterator[Appender]:
    async with running(engine) as appender:
        yield appender


@asynccontextmanager
async def at_work(engine: AsyncEngine, interval: float) -> AsyncIterator[Feed]:
    """A feed that has looked once and now waits."""
    feed = Feed(engine, interval=interval)
    async with anyio.create_task_group() as group:
        heard = asyncio.Event()

        def hear(_: str) -> None:
            heard.set()

        feed.listeners.append(hear)
        group.start_soon(feed.run)
        # Listening, it hints to itself once; after that it is quiet.
        await heard.wait()
        await feed.beyond(-1)
        await asyncio.sleep(0.1)
        feed.listeners.remove(hear)
        yield feed
        group.cancel_scope.cancel()


async def position_of_a_new_event(appender: Appender, **options: bool) -> int:
    one = new_stream()
    return (await appender.append(type(one)(one.stream, one.expected, one.events, **options))).positions[0]


@pytest.mark.parametrize("urgent", [True, False])
async def test_a_hint_makes_it_look(engine: AsyncEngine, appender: Appender, urgent: bool) -> None:
    async with at_work(engine, NEVER) as feed:
        position = await position_of_a_new_event(appender)
        feed.hint(urgent=urgent)
        with anyio.fail_after(2):
            assert await feed.beyond(position - 1) == position


async def test_an_announced_append_is_a_hint_to_every_process(engine: AsyncEngine, appender: Appender) -> None:
    async with at_work(engine, NEVER) as feed, at_work(engine, NEVER) as other:
        told: list[None] = []
        feed.listeners.append(lambda _: told.append(None))
        position = await position_of_a_new_event(appender, announce=True)
        with anyio.fail_after(2):
            assert await feed.beyond(position - 1) == position
            assert await other.beyond(position - 1) == position
        assert told


async def test_a_lost_hint_costs_a_delay_and_nothing_else(engine: AsyncEngine, appender: Appender) -> None:
    async with at_work(engine, interval=0.2) as feed:
        position = await position_of_a_new_event(appender)
        with anyio.fail_after(2):
            assert await feed.beyond(position - 1) == position


async def test_without_a_hint_it_does_not_look(engine: AsyncEngine, appender: Appender) -> None:
    async with at_work(engine, NEVER) as feed:
        position = await position_of_a_new_event(appender)
        with pytest.raises(TimeoutError), anyio.fail_after(0.15):
            await feed.beyond(position - 1)


async def test_everybody_who_waits_is_woken_and_who_is_behind_does_not_wait(
    engine: AsyncEngine, appender: Appender
) -> None:
    async with at_work(engine, NEVER) as feed:
        waiting = [asyncio.ensure_future(feed.beyond(after)) for after in (0, 0, 1)]
        await position_of_a_new_event(appender)
        last = await position_of_a_new_event(appender)
        feed.hint()
        with anyio.fail_after(2):
            assert await asyncio.gather(*waiting) == [last] * 3
            assert await feed.beyond(0) == last


async def test_an_event_that_settles_late_arrives_without_another_hint(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    async with at_work(engine, NEVER) as feed:
        with superuser(database_url) as holder:
            holder.execute("begin")
            holder.execute("select nextval('perdure.events_position_seq')")
            position = await position_of_a_new_event(appender)
            feed.hint()
            with pytest.raises(TimeoutError), anyio.fail_after(0.1):
                await feed.beyond(position - 1)
            holder.execute("commit")
        began = monotonic()
        with anyio.fail_after(2):
            assert await feed.beyond(position - 1) == position
        assert monotonic() - began < 1


@pytest.mark.parametrize("urgent", [True, False])
async def test_for_a_commit_that_does_not_come_it_looks_less_and_less_often(
    engine: AsyncEngine, appender: Appender, database_url: str, urgent: bool
) -> None:
    """A transaction that was prepared and forgotten, and appends behind it, each with its hint."""
    looks = 0
    original = SettledMark.advance

    async def counting(mark: SettledMark) -> int:
        nonlocal looks
        looks += 1
        return await original(mark)

    async with at_work(engine, NEVER) as feed:
        with superuser(database_url) as holder:
            holder.execute("begin")
            holder.execute("select nextval('perdure.events_position_seq')")
            holder.execute("prepare transaction 'forgotten'")
            with patch.object(SettledMark, "advance", counting):
                for _ in range(20):
                    position = await position_of_a_new_event(appender)
                    feed.hint(urgent=urgent)
                    await asyncio.sleep(0.05)
            assert feed.mark < position
            assert 5 < looks < 25
            holder.execute("commit prepared 'forgotten'")
        began = monotonic()
        with anyio.fail_after(2):
            assert await feed.beyond(position - 1) == position
        assert monotonic() - began < 0.5


async def test_after_its_connections_are_killed_it_goes_on(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    async with at_work(engine, interval=0.05) as feed:
        await feed.beyond(await position_of_a_new_event(appender) - 1)
        with superuser(database_url) as killer:
            for _ in range(3):
                killer.execute(
                    """select pg_terminate_backend(pid, 1000) from pg_stat_activity
                    where datname = current_database() and pid <> pg_backend_pid()"""
                )
                position = await position_of_a_new_event(appender)
                with anyio.fail_after(5):
                    assert await feed.beyond(position - 1) == position

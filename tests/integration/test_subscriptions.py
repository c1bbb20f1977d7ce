"""Listeners and durable subscriptions: what an outage, a namesake and a rare event may not do to them."""

import asyncio
from contextlib import suppress
from unittest.mock import patch

import pytest
from applications import new_app
from breaking_proxy import breaking_proxy
from logs import opened, rows, until

import perdure
from perdure_engine import event_manager
from perdure_engine.event_manager import EventManager
from perdure_engine.interest import Interest
from perdure_eventstore.feed import Feed

NAME = "audit"


def checkpoint(url: str) -> int:
    """Where the subscription has got to; -1 before it begins."""
    found = rows(url, f"select position from perdure.subscriptions where name = '{NAME}'")
    return int(found[0][0]) if found else -1


@pytest.mark.parametrize("from_start", [True, False], ids=["from start", "from now"])
async def test_a_subscription_begins_though_the_log_is_lost_at_first(database_url: str, from_start: bool) -> None:
    async with breaking_proxy(database_url) as (url, proxy):
        app, client = new_app(url), new_app(database_url)
        heard: list[int] = []
        proxy.break_next(NAME.encode(), "before the statement")
        app.subscribe(NAME, "data_ready", from_start=from_start)(lambda event: heard.append(event.payload))
        async with app, client:
            await until(lambda: proxy.broken == 1 and checkpoint(database_url) >= 0)
            await client.publish("data_ready", 1)
            await until(lambda: heard == [1])


async def test_an_outage_amid_a_batch_lets_nothing_be_heard_twice(database_url: str) -> None:
    async with breaking_proxy(database_url) as (url, proxy):
        app, client = new_app(url), new_app(database_url)
        heard: list[int] = []

        @app.subscribe(NAME, "data_ready", from_start=True)
        async def hear(event: perdure.Event) -> None:
            heard.append(event.payload)
            if event.payload == 10:
                proxy.break_next(NAME.encode(), "before the statement")

        async with client:
            last = [await client.publish("data_ready", n) for n in range(20)][-1]
            async with app:
                await until(lambda: checkpoint(database_url) == last.position)
        assert proxy.broken == 1
        assert heard == list(range(20))


async def test_an_event_heard_just_before_an_outage_is_not_heard_again_after_a_restart(database_url: str) -> None:
    """The checkpoint that the outage swallowed is saved once the log is back, though nothing else is heard."""
    async with breaking_proxy(database_url) as (url, proxy):
        app, client = new_app(url), new_app(database_url)

        @app.subscribe(NAME, "data_ready", from_start=True)
        async def hear(event: perdure.Event) -> None:
            proxy.break_next(NAME.encode(), "before the statement")

        async with app, client:
            published = await client.publish("data_ready")
            await until(lambda: checkpoint(database_url) == published.position)
        assert proxy.broken == 1


async def test_a_checkpoint_never_goes_back(database_url: str) -> None:
    slow, quick = new_app(database_url), new_app(database_url)
    turn, heard = asyncio.Semaphore(0), []

    @slow.subscribe(NAME, "data_ready", from_start=True)
    async def hear(event: perdure.Event) -> None:
        heard.append(event.position)
        await turn.acquire()

    quick.subscribe(NAME, "data_ready", from_start=True)(lambda event: None)
    async with slow:
        last = [await slow.publish("data_ready", n) for n in range(5)][-1]
        await until(lambda: len(heard) == 1)
        async with quick:
            await until(lambda: checkpoint(database_url) == last.position)
        turn.release()
        await until(lambda: len(heard) == 2)
        assert checkpoint(database_url) == last.position


async def test_a_rare_event_does_not_hold_the_checkpoint_back(database_url: str) -> None:
    app = new_app(database_url)
    app.subscribe(NAME, "rare", from_start=True)(lambda event: None)
    with patch.object(event_manager, "_CHECKPOINT_EVERY", 10):
        async with app:
            await until(lambda: checkpoint(database_url) == 0)
            last = [(await app.publish("data_ready", n)).position or 0 for n in range(30)][-1]
            await until(lambda: checkpoint(database_url) > last - 10)


async def test_a_listener_that_ends_gives_its_connection_up(database_url: str) -> None:
    connected = (
        "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and strpos(query, 'subscriptions') > 0"
    )
    async with opened(database_url) as engine:
        # An empty log: the last thing it asks is where it was.
        manager = EventManager(engine, Feed(engine), "perdure")
        listening = asyncio.create_task(manager.subscribe(NAME, Interest.of(), lambda event: None, start="beginning"))
        await until(lambda: checkpoint(database_url) == 0)
        assert rows(database_url, connected)
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
        await until(lambda: not rows(database_url, connected))
        del manager

"""A pool run dry: the application took every connection there is, and the log goes on on its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from applications import new_app, recorder, task, until, workflow
from logs import execute, opened, rows
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

import perdure
from perdure_eventstore.database import borrow
from perdure_eventstore.errors import LogUnavailable

pytestmark = pytest.mark.every_postgres

POOL = 20
ORDER = workflow("order", task("first", "began"), task("second", "first.completed"))
BREAKING = """select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and query <> 'select 1' and pid <> pg_backend_pid()"""
COMPLETED = "select count(*) from perdure.events where type = 'RunCompleted'"
BOOKED = workflow("booked", task("book", "booked", type="book"))


@asynccontextmanager
async def every_connection_taken(app: perdure.App) -> AsyncIterator[AsyncExitStack]:
    """The pool is dry until the block ends, or until what is given is closed."""
    async with AsyncExitStack() as stack:
        for _ in range(POOL):
            connection = await stack.enter_async_context(app.database.connect())
            await connection.execute(text("select 1"))
        assert "Connections in pool: 0" in app.database.pool.status()
        yield stack


async def test_a_node_and_a_client_go_on_while_the_application_has_every_connection_of_its_pool(
    database_url: str,
) -> None:
    app = new_app(database_url, patience=1.0)
    recorder(app)
    # A client and a node that come to a dry pool, and their connections break under them.
    async with app, every_connection_taken(app), app.node(views=False):
        await app.register(ORDER)
        (run,) = await (await app.publish("began")).runs(timeout=10)
        await run.result(timeout=10)
        execute(database_url, BREAKING)
        published = await app.publish("began")
        await until(lambda: rows(database_url, COMPLETED) == [(2,)])
        (run,) = await published.runs(timeout=10)
        await run.result(timeout=10)


async def test_an_exactly_once_task_waits_for_a_connection_and_fails_nothing(database_url: str) -> None:
    app = new_app(database_url)

    @app.task()
    async def book(connection: AsyncConnection) -> None:
        await connection.execute(text("insert into public.booked values (1)"))

    execute(database_url, "create table public.booked (n integer)")
    async with app.node(views=False):
        await app.register(BOOKED)
        async with every_connection_taken(app) as taken:
            (run,) = await (await app.publish("booked")).runs(timeout=10)
            await until(lambda: rows(database_url, "select from perdure.events where type = 'TaskStarted'"))
            await asyncio.sleep(0.5)
            assert await run.status() == "open"
            await taken.aclose()
            await run.result(timeout=10)
    assert rows(database_url, "select n from public.booked") == [(1,)]


async def test_who_borrows_of_a_dry_pool_is_told_so(database_url: str) -> None:
    async with opened(database_url, pool_size=1, pool_timeout=0.2) as engine, AsyncExitStack() as stack:
        for _ in range(11):
            await stack.enter_async_context(engine.connect())
        with pytest.raises(LogUnavailable, match="no connection was free: every one of the"):
            await borrow(engine)

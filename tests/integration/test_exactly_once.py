"""Exactly once: what a handler writes, and that it completed, are in the database together or not at all."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from acceptance.checker import assert_kept
from applications import ONCE, SOON, facts, new_app, recorder, story, task, workflow
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection
from tenacity import wait_none

import perdure
import perdure_engine.exactly_once as exactly_once
import perdure_eventstore.append as append
from perdure_engine.run import events as e
from perdure_engine.run.codec import encode
from perdure_eventstore.append import Append
from perdure_eventstore.errors import LogUnavailable, domain_error

pytestmark = pytest.mark.every_postgres

NODE = UUID(int=7)


class Books:
    """An app whose ``book`` writes a row a call, and then does whatever the test wants."""

    def __init__(self, url: str) -> None:
        self.url, self.calls = url, 0
        self.app = new_app(url)
        recorder(self.app)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("create table public.ledger (task text, attempt int)")

        @self.app.task()
        async def book(task: perdure.Task, connection: AsyncConnection) -> int:
            self.calls += 1
            row = {"task": task.idempotency_key, "attempt": task.attempt}
            await connection.execute(text("insert into public.ledger values (:task, :attempt)"), row)
            await self.then(task, connection)
            return task.attempt

    async def then(self, task: perdure.Task, connection: AsyncConnection) -> None:
        """What follows the row."""

    def attempts(self) -> list[int]:
        """Whose rows are in the ledger."""
        with psycopg.connect(self.url) as connection:
            return [attempt for (attempt,) in connection.execute("select attempt from public.ledger").fetchall()]

    async def run(self, retry: Any = ONCE) -> perdure.Run:
        await self.app.register(workflow("w", task("a", type="book", retry=retry), task("b", "a.completed")))
        return await self.app.start("w")

    async def append(self, run: UUID, *events: e.RunEvent) -> None:
        """Append to a run as nobody but its owner may."""
        client = self.app.client
        head = await client.reader.head(run)
        await client.appender.append(Append(run, head, [encode(event, b"{}") for event in events]))


@pytest.fixture
async def books(database_url: str) -> AsyncIterator[Books]:
    books = Books(database_url)
    async with books.app.node(views=False):
        yield books


async def test_nobody_ever_sees_the_row_without_the_completion_or_the_other_way(books: Books) -> None:
    runs = [await books.run() for _ in range(30)]
    async with await psycopg.AsyncConnection.connect(books.url, autocommit=True) as connection:
        seen = 0
        while seen < len(runs):
            rows = await connection.execute(
                "select (select count(*) from public.ledger), (select count(*) from perdure.events"
                " where type = 'TaskCompleted' and data::text like '%\"a\"%')"
            )
            counted = await rows.fetchone()
            assert counted is not None
            assert counted[0] == counted[1]
            seen = counted[0]
    for run in runs:
        await run.result(timeout=10)
    assert books.calls == len(runs)
    assert_kept(books.url)


async def test_a_handler_that_fails_leaves_nothing_behind(books: Books) -> None:
    async def then(task: perdure.Task, connection: AsyncConnection) -> None:
        if task.attempt == 1:
            raise RuntimeError("after the row")

    books.then = then  # type: ignore[method-assign]
    run = await books.run(SOON)
    assert (await run.result(timeout=10))["a"] == 2
    assert books.attempts() == [2]


async def test_who_loses_the_race_for_the_run_decides_again_and_the_handler_is_not_repeated(books: Books) -> None:
    async def then(task: perdure.Task, connection: AsyncConnection) -> None:
        ignored = e.EventIgnored(event="came", event_id=UUID(int=1), reason="somebody else wrote this")
        await books.append(task.run_id, ignored)

    books.then = then  # type: ignore[method-assign]
    run = await books.run()
    assert (await run.result(timeout=10))["a"] == 1
    assert books.attempts() == [1]
    assert books.calls == 1
    assert_kept(books.url)


async def test_an_attempt_that_was_decided_otherwise_is_rolled_back_whole(books: Books) -> None:
    async def then(task: perdure.Task, connection: AsyncConnection) -> None:
        if task.attempt == 1:
            interrupted = e.TaskInterrupted(task_id="a", attempt=1, node=NODE)
            await books.append(task.run_id, interrupted, e.TaskScheduled(task_id="a", attempt=2))

    books.then = then  # type: ignore[method-assign]
    run = await books.run()
    assert (await run.result(timeout=10))["a"] == 2
    assert books.attempts() == [2]
    assert_kept(books.url)


async def test_a_connection_lost_under_the_handler_is_an_interruption_and_no_failure(books: Books) -> None:
    async def then(task: perdure.Task, connection: AsyncConnection) -> None:
        if task.attempt == 1:
            await connection.execute(text("select pg_terminate_backend(pg_backend_pid())"))

    books.then = then  # type: ignore[method-assign]
    run = await books.run(ONCE)
    assert (await run.result(timeout=10))["a"] == 2
    assert books.attempts() == [2]
    assert len(facts(books.url, run.run_id, "TaskInterrupted")) == 1
    assert_kept(books.url)


async def test_postgres_refusing_connections_holds_a_task_up_and_nothing_more(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, refused = AsyncConnection.start, 0

    async def start(connection: AsyncConnection, is_ctxmanager: bool = False) -> AsyncConnection:
        nonlocal refused
        refused += 1
        if refused <= 6:
            raise OperationalError("", {}, psycopg.OperationalError("connection refused"))
        return await original(connection, is_ctxmanager)

    monkeypatch.setattr(AsyncConnection, "start", start)
    run = await books.run(ONCE)
    assert (await run.result(timeout=10))["a"] == 1
    assert "TaskInterrupted a 1" not in story(books.url, run.run_id)


async def test_a_connection_that_broke_in_the_pool_is_found_out_before_the_handler_is_called(books: Books) -> None:
    await (await books.run(ONCE)).result(timeout=10)
    with psycopg.connect(books.url, autocommit=True) as connection:
        # Those of the node's own sessions ended with something else.
        broken = connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and query in ('COMMIT', 'ROLLBACK')"
        )
        assert broken.rowcount
    run = await books.run(ONCE)
    assert (await run.result(timeout=10))["a"] == 1
    assert books.calls == 2
    assert "TaskInterrupted a 1" not in story(books.url, run.run_id)


async def test_more_tasks_than_connections_wait_for_one_and_leave_some_to_the_node(books: Books) -> None:
    inside = most = 0

    async def then(task: perdure.Task, connection: AsyncConnection) -> None:
        nonlocal inside, most
        inside, most = inside + 1, max(most, inside + 1)
        await asyncio.sleep(0.05)
        inside -= 1

    books.then = then  # type: ignore[method-assign]
    await books.app.register(workflow("many", *[task(f"t{n}", type="book", retry=ONCE) for n in range(30)]))
    run = await books.app.start("many")
    assert set((await run.result(timeout=20)).values()) == {1}
    assert most == 10
    assert_kept(books.url)


@pytest.mark.parametrize(
    "error",
    ["errcode = '40P01'", "errcode = 'PD002'", "errcode = '23505', constraint = 'events_stream_version'"],
    ids=["deadlock", "drift", "race"],
)
async def test_a_completion_the_log_did_not_take_is_decided_again_and_the_handler_is_not_repeated(
    books: Books, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    original, tries = append.send, 0

    async def send(connection: Any, *arguments: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries <= 2:
            try:
                await connection.execute(f"do $$ begin raise 'not now' using {error}; end $$")
            except psycopg.Error as refused:
                raise domain_error(refused) from refused
        return await original(connection, *arguments)

    monkeypatch.setattr(exactly_once, "send", send)
    run = await books.run(ONCE)
    assert (await run.result(timeout=10))["a"] == 1
    assert (tries, books.calls, books.attempts()) == (3, 1, [1])
    assert_kept(books.url)


async def test_a_completion_the_log_never_takes_is_an_interruption_and_no_failure(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = append.send

    async def send(connection: Any, *arguments: Any) -> Any:
        if books.calls == 1:
            raise LogUnavailable("the disk is full")
        return await original(connection, *arguments)

    monkeypatch.setattr(exactly_once, "send", send)
    monkeypatch.setattr(exactly_once, "_DECIDE_WAITS", wait_none())
    run = await books.run(ONCE)
    assert (await run.result(timeout=10))["a"] == 2
    assert "TaskInterrupted a 1" in story(books.url, run.run_id)
    assert books.attempts() == [2]


async def test_a_commit_whose_answer_never_came_is_found_in_the_log(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = AsyncConnection.commit

    async def unheard(connection: AsyncConnection) -> None:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        await original(connection)
        await raw.close()
        raise OperationalError("commit", {}, psycopg.OperationalError("the connection was closed"))

    monkeypatch.setattr(AsyncConnection, "commit", unheard)
    run = await books.run(ONCE)
    result = await run.result(timeout=10)
    assert result["a"] == 1
    assert "b" in result, "what follows the task goes on"
    assert books.attempts() == [1]
    assert_kept(books.url)


async def test_a_handler_that_times_out_in_its_transaction_leaves_nothing_and_its_slot(books: Books) -> None:
    async def then(task: perdure.Task, connection: AsyncConnection) -> None:
        await asyncio.sleep(30 if task.attempt == 1 else 0)

    books.then = then  # type: ignore[method-assign]
    await books.app.register(workflow("t", task("a", type="book", timeout=0.2, retry=SOON)))
    run = await books.app.start("t")
    assert (await run.result(timeout=10))["a"] == 2
    assert books.attempts() == [2]
    assert "TaskTimedOut a 1" in story(books.url, run.run_id)

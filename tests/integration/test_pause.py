"""Pausing and resuming: from Python, from SQL, from the command line; across a restart of the node."""

import asyncio
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from applications import new_app, recorder, story, task, until, workflow
from command_line import perdure as command
from logs import rows

import perdure
from perdure_engine.history import UnknownRun

pytestmark = pytest.mark.every_postgres

TWO = workflow("two", task("a"), task("b", "a.completed"))
SLEEPS = workflow("sleeps", {"task_id": "sleep", "triggers": [], "delay": "{{seconds}}"}, task("a", "sleep.completed"))


async def until_paused(run: perdure.Run) -> None:
    async with asyncio.timeout(10):
        while await run.status() != "paused":
            await asyncio.sleep(0.01)


async def test_a_paused_run_starts_nothing_and_goes_on_when_it_is_resumed(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app, seconds=0.3)
    async with app.node():
        await app.register(TWO)
        run = await app.start("two")
        await until(lambda: "TaskStarted a 1" in story(database_url, run.run_id))
        await app.pause(run.run_id, "a flood")
        await until_paused(run)
        await until(lambda: "TaskScheduled b 1" in story(database_url, run.run_id))
        await until(lambda: rows(database_url, "select status from perdure.runs") == [("paused",)])
        await asyncio.sleep(0.3)
        assert story(database_url, run.run_id)[-1] == "TaskScheduled b 1"
        with pytest.raises(perdure.StillOpen):
            await run.result(timeout=0.1)
        await app.resume(run.run_id)
        assert await run.result(timeout=10) == {"a": {}, "b": {}}
        await until(lambda: rows(database_url, "select status from perdure.runs") == [("completed",)])
        await app.pause(run.run_id)
        await until(lambda: rows(database_url, "select count(*) from perdure.inbox") == [(0,)])
        assert await run.status() == "completed"


async def test_a_run_stays_paused_while_no_node_lives_and_its_timers_wait(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        await app.register(SLEEPS)
        run = await app.start("sleeps", {"seconds": 0.5})
        await app.pause(run.run_id)
        await until_paused(run)
    held = rows(database_url, "select timer, held from perdure.timers")
    assert held == [("delay:sleep", True)]
    assert rows(database_url, "select paused from perdure.open_runs") == [(True,)]
    await asyncio.sleep(0.6)
    async with app.node(views=False):
        await asyncio.sleep(0.3)
        assert "TaskCompleted sleep 0" not in story(database_url, run.run_id)
        assert not app.client.node.tenure.holder._held, "a run that is paused is not held"  # type: ignore[union-attr]
        await app.resume(run.run_id)
        await run.result(timeout=10)
    assert rows(database_url, "select count(*) from perdure.timers") == [(0,)]


async def test_what_waited_for_a_slot_when_the_run_was_paused_starts_when_it_is_resumed(database_url: str) -> None:
    app = new_app(database_url, concurrency=1)
    calls = recorder(app, seconds=0.2)
    async with app.node(views=False):
        await app.register(workflow("wide", *[task(f"t{n}") for n in range(5)]))
        run = await app.start("wide")
        await until(lambda: len(calls) == 1)
        await app.pause(run.run_id)
        await until_paused(run)
        await asyncio.sleep(0.5)
        assert len(calls) == 1
        await app.resume(run.run_id)
        await run.result(timeout=10)
    assert len(calls) == 5


async def test_pausing_in_a_callers_transaction_takes_hold_when_that_commits(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app, seconds=0.2)
    async with app.node(views=False):
        await app.register(TWO)
        run = await app.start("two")
        async with app.database.connect() as connection:
            await app.pause(run.run_id, connection=connection)
            await connection.rollback()
            assert len(await run.result(timeout=10)) == 2
        run = await app.start("two")
        async with app.database.begin() as connection:
            await app.pause(run.run_id, connection=connection)
        await until_paused(run)


def test_the_command_line_and_the_blocking_client_pause_and_resume(database_url: str, tmp_path: Path) -> None:
    with new_app(database_url).blocking() as client:
        client.register(TWO, allow_unknown_types=True)
        run = client.start("two")
        client.pause(run.run_id, "first")
        client.resume(run.run_id)
        for verb in ("pause", "resume"):
            done = command(tmp_path, verb, str(run.run_id), "--reason", "so", "--json", "--database", database_url)
            assert (done.status, done.lines) == (0, [{"run_id": str(run.run_id), "command": verb}])
            assert f"it will be {verb}d once" in done.err
    with psycopg.connect(database_url) as connection:
        connection.execute("select perdure.command(%s, 'pause')", (run.run_id,))
    found = rows(
        database_url, "select kind, detail ->> 'reason' from perdure.inbox where kind <> 'started' order by id"
    )
    assert found == [("pause", "first"), ("resume", ""), ("pause", "so"), ("resume", "so"), ("pause", "")]


async def test_what_is_no_run_cannot_be_paused(database_url: str) -> None:
    app = new_app(database_url)
    async with app:
        with pytest.raises(UnknownRun):
            await app.pause(uuid4())

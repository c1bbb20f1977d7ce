"""A fault in the core's own decisions, here put there by hand: the run fails where people see it."""

import sys
from typing import Any

import pytest
from acceptance.checker import assert_kept
from applications import SOON, new_app, recorder, story, task, workflow
from logs import execute
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

import perdure
import perdure_engine.held_run as held_run
from perdure_engine.run import codec

pytestmark = pytest.mark.every_postgres

# Under its own name the package has the function.
core = sys.modules["perdure_engine.run.decide"]


def _came(within: str) -> dict[str, str]:
    return {"event": "came", "within": within}


def break_off(monkeypatch: pytest.MonkeyPatch, what: str, task_id: str | None = None) -> None:
    """``what`` of the core raises, for ``task_id`` or for all."""
    original = getattr(core, what)

    def faulty(progress: Any, command: Any) -> None:
        if task_id is None or command.task_id == task_id:
            raise ZeroDivisionError("a fault of ours")
        original(progress, command)

    monkeypatch.setattr(core, what, faulty)


async def test_a_completion_that_cannot_be_decided_fails_its_task_and_frees_its_slot(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_app(database_url, concurrency=1)
    recorder(app)
    break_off(monkeypatch, "_complete", "bad")
    async with app.node(views=False):
        await app.register(workflow("w", task("bad"), task("cleanup", "bad.failed"), task("other")))
        run = await app.start("w")
        assert await run.result(timeout=10) == {"cleanup": {}, "other": {}}
        await app.register(workflow("fails", task("bad")))
        with pytest.raises(perdure.RunFailed, match="CompleteAttempt could not be decided: ZeroDivisionError: a fault"):
            await (await app.start("fails")).result(timeout=10)
    assert_kept(database_url)


async def test_an_exactly_once_task_that_cannot_be_decided_keeps_nothing_and_fails(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_app(database_url)

    @app.task("work")
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text("create table public.made ()"))

    break_off(monkeypatch, "_complete")
    async with app.node(views=False):
        await app.register(workflow("w", task("a", retry={"attempts": 1})))
        with pytest.raises(perdure.RunFailed, match="a fault of ours"):
            await (await app.start("w")).result(timeout=10)


async def test_an_event_that_cannot_be_decided_fails_the_run(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_app(database_url)
    recorder(app)
    break_off(monkeypatch, "_receive")
    async with app.node(views=False):
        await app.register(workflow("w", task("a"), task("b", {"all": ["a.completed", _came("1h")]})))
        run = await app.start("w")
        published = await app.publish("came", {}, run=run.run_id)
        await published.routed()
        with pytest.raises(perdure.RunFailed, match="a ReceiveEvent could not be decided; see the log"):
            await run.result(timeout=10)
    assert_kept(database_url)


async def test_a_timer_that_cannot_be_decided_fails_the_run(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = new_app(database_url)
    recorder(app)
    break_off(monkeypatch, "_fire")
    async with app.node(views=False):
        await app.register(workflow("w", task("a"), task("b", {"all": ["a.completed", _came("1s")]})))
        with pytest.raises(perdure.RunFailed, match="a FireTimer could not be decided"):
            await (await app.start("w")).result(timeout=10)
    assert_kept(database_url)


async def test_a_start_that_cannot_be_decided_is_told_to_who_starts_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        await app.register(workflow("w", task("a")))
        with monkeypatch.context() as broken:
            break_off(broken, "_start")
            with pytest.raises(ZeroDivisionError, match="a fault of ours"):
                await app.start("w")
        assert await (await app.start("w")).result(timeout=10) == {"a": {}}


async def test_a_decision_that_cannot_be_written_fails_its_task(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_app(database_url)
    recorder(app)

    def encode(event: Any, metadata: bytes) -> Any:
        if type(event).__name__ == "TaskCompleted" and event.task_id == "bad":
            raise TypeError("a fault of ours")
        return codec.encode(event, metadata)

    monkeypatch.setattr(held_run, "encode", encode)
    async with app.node(views=False):
        await app.register(workflow("w", task("bad")))
        with pytest.raises(perdure.RunFailed, match="what was decided cannot be written: TypeError: a fault of ours"):
            await (await app.start("w")).result(timeout=10)
    assert_kept(database_url)


async def test_a_failure_that_the_log_refuses_is_an_interruption_and_the_next_attempt_follows(
    database_url: str,
) -> None:
    execute(
        database_url,
        """alter table perdure.events add constraint not_the_first check
            (type <> 'TaskFailed' or data ->> 'task_id' <> 'bad' or data ->> 'attempt' <> '1')""",
    )
    app = new_app(database_url, concurrency=1)

    @app.task()
    async def work(task: perdure.Task) -> int:
        if task.attempt == 1:
            raise ValueError(f"{task.task_id} fails")
        return task.attempt

    async with app.node(views=False):
        await app.register(
            workflow("w", task("bad", retry=SOON), task("other", retry=SOON), task("last", "bad.completed", retry=SOON))
        )
        run = await app.start("w")
        # The only slot came back, or nothing else would begin.
        assert await run.result(timeout=10) == {"bad": 2, "other": 2, "last": 2}
        told = story(database_url, run.run_id)
        assert "TaskFailed bad 1" not in told
        assert {"TaskInterrupted bad 1", "TaskScheduled bad 2", "TaskCompleted bad 2", "TaskFailed other 1"} <= set(
            told
        )
    assert_kept(database_url)

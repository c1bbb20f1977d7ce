"""A fault in the core's own decisions, here put there by hand: the run fails where people see it."""

import sys
from typing import Any

import pytest
from acceptance.checker import assert_kept
from applications import new_app, recorder, task, workflow
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

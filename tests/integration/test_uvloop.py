"""uvloop, on which uvicorn runs an application where it is installed, does what the event loop of Python does."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop
from acceptance.checker import assert_kept
from applications import ONCE, SOON, facts, new_app, story, task, workflow

import perdure
from perdure_eventstore.outlets import HeadCommand, PublishingFailed

MANY_WAYS = workflow(
    "many_ways",
    task("stumbles", type="stumbling", retry=SOON),
    task("hangs", type="hanging", retry=ONCE, timeout="200ms"),
    task("goes_on", {"all": ["stumbles.completed", "hangs.failed"]}, type="in_a_thread"),
    task("sleeps", "goes_on.completed", delay="200ms"),
)


def test_a_node_works_on_uvloop(database_url: str) -> None:
    app, elsewhere = new_app(database_url), new_app(database_url)
    tried = list[int]()

    @app.task("stumbling")
    async def stumbling(task: perdure.Task) -> None:
        tried.append(task.attempt)
        if task.attempt < 3:
            raise RuntimeError("not yet")

    @app.task("hanging")
    async def hanging() -> None:
        await asyncio.sleep(60)

    @app.task("in_a_thread")
    def in_a_thread() -> str:
        time.sleep(0.05)
        return "done"

    @app.task("work")
    async def work() -> None: ...

    async def main() -> None:
        async with app.node(), elsewhere:
            await app.register(MANY_WAYS)
            run = await elsewhere.start("many_ways")
            assert (await run.result(timeout=20))["goes_on"] == "done"
            assert tried == [1, 2, 3]
            assert "TaskTimedOut hangs 1" in story(database_url, run.run_id)
            (slept,) = facts(database_url, run.run_id, "TaskDelayed")
            assert slept["task_id"] == "sleeps"
            stopped = await elsewhere.start("many_ways")
            await elsewhere.cancel(stopped.run_id)
            with pytest.raises(perdure.RunCancelled):
                await stopped.result(timeout=20)

    run_on_uvloop(main())
    assert_kept(database_url)


def test_a_command_that_reads_nothing_of_a_head_is_told_by_its_status() -> None:
    async def main() -> None:
        commands = [HeadCommand("echo no network >&2; exit 3").publish("a note") for _ in range(10)]
        for said in await asyncio.gather(*commands, return_exceptions=True):
            assert isinstance(said, PublishingFailed) and "no network" in str(said)

    run_on_uvloop(main())


def run_on_uvloop(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)

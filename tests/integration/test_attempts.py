"""What becomes of attempts: out of time, out of life, cancelled and deaf to it, in threads and in other processes."""

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from applications import facts, new_app, story, task, until, workflow

import perdure
from perdure_engine import attempts
from perdure_engine.errors import TaskTypeRefused


def one(type_: str, **more: Any) -> dict[str, Any]:
    return workflow("one", task("a", type=type_, **more))


@pytest.mark.parametrize("limit", ["timeout", "heartbeat"])
async def test_a_handler_that_swallows_its_cancellation_outlasts_no_limit(
    database_url: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_LIMIT_GRACE", 0.2)
    app, over, deadline = new_app(database_url), asyncio.Event(), time.monotonic() + 20

    @app.task(
        retry=perdure.Retry(attempts=1),
        timeout=0.2 if limit == "timeout" else None,
        heartbeat=0.2 if limit == "heartbeat" else None,
    )
    async def deaf() -> str:
        while not over.is_set() and time.monotonic() < deadline:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                continue
        return "late"

    async with app.node(views=False):
        await app.register(one("deaf"))
        run = await app.start("one")
        with pytest.raises(perdure.RunFailed):
            await run.result(timeout=5)
        over.set()
        await asyncio.sleep(0.3)
        slots = app.client.node.tenure.holder.placement.slots  # type: ignore[union-attr]
        assert slots.free == slots.limit
    (timed_out,) = facts(database_url, run.run_id, "TaskTimedOut")
    assert (timed_out["timeout"], timed_out.get("limit", "start_to_close")) == (
        0.2,
        "heartbeat" if limit == "heartbeat" else "start_to_close",
    )


async def test_a_node_stops_though_a_handler_swallows_its_cancellation(database_url: str) -> None:
    app, going, deadline = new_app(database_url, stop=1.0), True, time.monotonic() + 20

    @app.task()
    async def deaf() -> None:
        while going and time.monotonic() < deadline:
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                continue

    async with app.node(views=False):
        await app.register(one("deaf"))
        run = await app.start("one")
        await until(lambda: "TaskStarted a 1" in story(database_url, run.run_id))
        begun = time.monotonic()
    assert time.monotonic() - begun < 3
    going = False
    (interrupted,) = facts(database_url, run.run_id, "TaskInterrupted")
    assert interrupted["clean"]


async def test_a_cancelled_run_does_not_wait_for_a_deaf_handler_longer_than_its_grace(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "CANCEL_GRACE", 0.3)
    app, over = new_app(database_url), threading.Event()

    @app.task()
    def deaf() -> None:
        over.wait(20)

    async with app.node(views=False):
        await app.register(one("deaf"))
        run = await app.start("one")
        await until(lambda: "TaskStarted a 1" in story(database_url, run.run_id))
        await app.cancel(run.run_id)
        with pytest.raises(perdure.RunCancelled):
            await run.result(timeout=5)
        over.set()
    assert story(database_url, run.run_id)[-3:] == ["RunStopping", "TaskCancelled a 1", "RunCancelled"]


async def test_rule_21_a_completion_inside_the_grace_is_recorded_and_makes_nothing_ready(database_url: str) -> None:
    app = new_app(database_url)

    @app.task()
    def polite(task: perdure.Task) -> str:
        while not task.is_cancelled:
            time.sleep(0.01)
        return "as far as it went"

    async with app.node(views=False):
        await app.register(workflow("two", task("a", type="polite"), task("b", "a.completed", type="polite")))
        run = await app.start("two")
        await until(lambda: "TaskStarted a 1" in story(database_url, run.run_id))
        await app.cancel(run.run_id)
        with pytest.raises(perdure.RunCancelled):
            await run.result(timeout=5)
    assert story(database_url, run.run_id)[-3:] == ["TaskCompleted a 1", "TaskSkipped b", "RunCancelled"]


@pytest.mark.parametrize("in_thread", [False, True])
async def test_heartbeats_keep_a_long_attempt_alive(database_url: str, in_thread: bool) -> None:
    app = new_app(database_url)

    @app.task("long", heartbeat=0.5)
    async def long(task: perdure.Task) -> None:
        for _ in range(12):
            await asyncio.sleep(0.1)
            task.heartbeat()

    @app.task("threaded", heartbeat=0.5)
    def threaded(task: perdure.Task) -> None:
        for _ in range(12):
            time.sleep(0.1)
            task.heartbeat()

    async with app.node(views=False):
        await app.register(one("threaded" if in_thread else "long"))
        await (await app.start("one")).result(timeout=10)


async def test_an_attempt_that_gives_no_sign_of_life_times_out_and_is_tried_again(database_url: str) -> None:
    app = new_app(database_url)

    @app.task(heartbeat=60)
    async def hangs_once(task: perdure.Task) -> int:
        if task.attempt == 1:
            await asyncio.sleep(60)
        return task.attempt

    async with app.node(views=False):
        await app.register(one("hangs_once", heartbeat=0.2, retry={"attempts": 2, "initial": 0, "jitter": 0}))
        run = await app.start("one")
        assert await run.result(timeout=10) == {"a": 2}
    (timed_out,) = facts(database_url, run.run_id, "TaskTimedOut")
    assert timed_out["limit"] == "heartbeat"


async def test_an_attempt_that_finds_no_slot_in_time_has_timed_out(database_url: str) -> None:
    app = new_app(database_url, concurrency=1)

    @app.task()
    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async with app.node(views=False):
        await app.register(
            workflow(
                "two",
                task("a", inputs={"seconds": 2}),
                task("b", inputs={"seconds": 0}, schedule_to_start=0.3, retry=False),
            )
        )
        run = await app.start("two")
        with pytest.raises(perdure.RunFailed):
            await run.result(timeout=10)
    (timed_out,) = facts(database_url, run.run_id, "TaskTimedOut")
    assert (timed_out["task_id"], timed_out["limit"]) == ("b", "schedule_to_start")


# Executors


def burn(n: int, notes: str, task: perdure.Task) -> dict[str, Any]:
    with Path(notes).open("a") as file:
        file.write(f"{task.attempt} {os.getpid()}\n")
    if (Path(notes).parent / "die").exists():
        time.sleep(60)
    return {"sum": sum(range(n)), "key": task.idempotency_key}


def beat(task: perdure.Task) -> None:
    task.heartbeat()


def leave() -> None:
    os._exit(3)


async def make_later() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


async def test_a_cpu_bound_handler_runs_in_a_process_pool(database_url: str, tmp_path: Path) -> None:
    app, notes = new_app(database_url), tmp_path / "notes"
    with ProcessPoolExecutor(1) as pool:
        app.task(executor=pool)(burn)
        app.task(executor=pool, retry=perdure.Retry(attempts=1))(beat)
        async with app.node(views=False):
            await app.register(one("burn", inputs={"n": 10, "notes": str(notes)}))
            run = await app.start("one")
            assert await run.result(timeout=20) == {"a": {"sum": 45, "key": f"{run.run_id}:a"}}
            assert int(notes.read_text().split()[1]) != os.getpid()
            await app.register(one("beat"))
            with pytest.raises(perdure.RunFailed, match="a heartbeat does not reach the node"):
                await (await app.start("one")).result(timeout=10)


async def test_a_pool_made_for_a_type_ends_with_the_node_and_is_made_anew_by_the_next(
    database_url: str, tmp_path: Path
) -> None:
    app, made = new_app(database_url), list[ProcessPoolExecutor]()

    def make() -> ProcessPoolExecutor:
        made.append(ProcessPoolExecutor(1))
        return made[-1]

    app.task(executor=make)(burn)
    for times in (1, 2):
        async with app.node(views=False):
            await app.register(one("burn", inputs={"n": 10, "notes": str(tmp_path / "notes")}))
            await (await app.start("one")).result(timeout=20)
        assert len(made) == times
        with pytest.raises(RuntimeError, match="after shutdown"):
            made[-1].submit(os.getpid)


async def test_a_task_whose_worker_process_is_killed_is_interrupted_and_tried_again(
    database_url: str, tmp_path: Path
) -> None:
    app, notes = new_app(database_url), tmp_path / "notes"
    notes.touch()
    (tmp_path / "die").touch()
    app.task(executor=lambda: ProcessPoolExecutor(1), retry=perdure.Retry(attempts=1))(burn)
    async with app.node(views=False):
        await app.register(one("burn", inputs={"n": 10, "notes": str(notes)}))
        run = await app.start("one")
        await until(notes.read_text)
        (tmp_path / "die").unlink()
        os.kill(int(notes.read_text().split()[1]), signal.SIGKILL)
        assert (await run.result(timeout=20))["a"]["sum"] == 45
    assert story(database_url, run.run_id)[3:5] == ["TaskInterrupted a 1", "TaskScheduled a 2"]


async def test_tasks_fail_with_a_sentence_where_the_pool_that_was_handed_in_is_broken(database_url: str) -> None:
    app = new_app(database_url)
    with ProcessPoolExecutor(1) as pool:
        app.task("burn", executor=pool, retry=perdure.Retry(attempts=2, initial=0.01))(leave)
        with pytest.raises(BrokenExecutor):
            pool.submit(leave).result(timeout=20)
        async with app.node(views=False):
            await app.register(one("burn"))
            run = await app.start("one")
            with pytest.raises(perdure.RunFailed, match="the executor of burn takes no work: "):
                await run.result(timeout=20)
    told = story(database_url, run.run_id)
    assert "TaskFailed a 2" in told
    assert not any("Interrupted" in each for each in told)


async def test_tasks_fail_with_a_sentence_where_the_pool_that_was_handed_in_is_shut_down(database_url: str) -> None:
    app = new_app(database_url)
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    app.task("burn", executor=pool, retry=perdure.Retry(attempts=1))(leave)
    async with app.node(views=False):
        await app.register(one("burn"))
        with pytest.raises(perdure.RunFailed, match=r"takes no work: .*; hand in a function that makes"):
            await (await app.start("one")).result(timeout=20)


@pytest.mark.parametrize("make", [lambda: 3, dict, make_later])
async def test_a_function_that_makes_no_executor_fails_its_tasks_and_lets_the_node_stop(
    database_url: str, make: Any
) -> None:
    app = new_app(database_url)
    app.task("burn", executor=make, retry=perdure.Retry(attempts=1))(leave)
    async with app.node(views=False):
        await app.register(one("burn"))
        with pytest.raises(perdure.RunFailed, match=r"the executor of burn cannot be made: its function returned .*, "):
            await (await app.start("one")).result(timeout=20)


async def test_a_pool_of_the_handlers_own_that_breaks_fails_its_attempt(database_url: str) -> None:
    app = new_app(database_url)

    @app.task("burn", retry=perdure.Retry(attempts=1))
    async def burns() -> None:
        raise BrokenExecutor("its own pool broke")

    async with app.node(views=False):
        await app.register(one("burn"))
        run = await app.start("one")
        with pytest.raises(perdure.RunFailed, match="its own pool broke"):
            await run.result(timeout=10)
    assert "TaskInterrupted a 1" not in story(database_url, run.run_id)


async def test_what_an_executor_has_not_begun_ends_at_once_with_its_run(database_url: str, tmp_path: Path) -> None:
    app, notes = new_app(database_url), tmp_path / "notes"
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(over.wait, 30)
        app.task(executor=pool)(burn)
        async with app.node(views=False):
            await app.register(one("burn", inputs={"n": 10, "notes": str(notes)}))
            run = await app.start("one")
            await until(lambda: "TaskStarted a 1" in story(database_url, run.run_id))
            await app.cancel(run.run_id)
            with pytest.raises(perdure.RunCancelled):
                await run.result(timeout=5)
        over.set()
    assert not notes.exists()


async def test_what_cannot_be_executed_so_is_refused_with_a_sentence() -> None:
    app = perdure.App("postgresql://nowhere/none")
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(TaskTypeRefused, match="it is for synchronous handlers, and this one is async"):

            @app.task(executor=pool)
            async def asynchronous() -> None: ...

        with pytest.raises(TaskTypeRefused, match="a heartbeat does not reach the node from there"):
            app.task(executor=pool, heartbeat=1.0)(beat)
    with pytest.raises(TaskTypeRefused, match=r"an executor of concurrent\.futures, or a function that makes one"):
        app.task(executor=4)(beat)  # type: ignore[arg-type]
    with pytest.raises(TaskTypeRefused, match="at_least_once or at_most_once"):
        app.task(delivery="twice")(beat)  # type: ignore[arg-type]
    with pytest.raises(TaskTypeRefused, match="the heartbeat of beat is a number of seconds above 0"):
        app.task(heartbeat=0)(beat)


async def test_an_attempt_that_somebody_else_cancels_is_interrupted_and_not_failed(database_url: str) -> None:
    app = new_app(database_url)

    @app.task(retry=perdure.Retry(attempts=1))
    async def long(task: perdure.Task) -> int:
        await asyncio.sleep(0 if task.attempt > 1 else 30)
        return task.attempt

    async with app.node(views=False):
        await app.register(one("long"))
        run = await app.start("one")
        under_way = app.client.node.tenure.attempts  # type: ignore[union-attr]
        await until(lambda: len(under_way))
        # As asyncio.run does to all there are when the event loop ends.
        for attempt in under_way:
            attempt.work.cancel()
        assert await run.result(timeout=5) == {"a": 2}
    assert "TaskInterrupted a 1" in story(database_url, run.run_id)


async def test_a_handler_that_cancels_itself_is_tried_again_like_one_that_fails(database_url: str) -> None:
    app = new_app(database_url)

    @app.task(retry=perdure.Retry(attempts=2, initial=0.01))
    async def stray(task: perdure.Task) -> int:
        if task.attempt == 1:
            raise asyncio.CancelledError
        return task.attempt

    async with app.node(views=False):
        await app.register(one("stray"))
        run = await app.start("one")
        assert await run.result(timeout=10) == {"a": 2}
    assert "TaskFailed a 1" in story(database_url, run.run_id)

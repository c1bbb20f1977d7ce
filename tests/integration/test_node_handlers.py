"""What a handler may do, and what is made of it: failures, timeouts, outputs, cancellation, listeners."""

import asyncio
import threading
import time
from typing import Any
from uuid import UUID

import pytest
from acceptance.checker import assert_kept
from applications import ONCE, SOON, facts, new_app, recorder, story, task, until, workflow

import perdure

pytestmark = pytest.mark.every_postgres


async def test_a_synchronous_handler_runs_in_a_thread_and_holds_up_nobody(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app, "other")
    threads = set()

    @app.task()
    def work(n: int) -> int:
        threads.add(threading.current_thread())
        time.sleep(0.3)
        return n + 1

    async with app.node(views=False):
        await app.register(workflow("w", *[task(f"t{n}", inputs={"n": n}) for n in range(4)]))
        await app.register(workflow("quick", task("q", type="other")))
        slow = await app.start("w")
        began = time.monotonic()
        await (await app.start("quick")).result(timeout=10)
        assert time.monotonic() - began < 0.3
        assert await slow.result(timeout=10) == {f"t{n}": n + 1 for n in range(4)}
    assert len(threads) == 4
    assert threading.main_thread() not in threads


async def test_a_failed_attempt_is_tried_again_until_its_policy_ends(database_url: str) -> None:
    app = new_app(database_url)

    @app.task()
    async def work(task: perdure.Task) -> None:
        raise RuntimeError(f"attempt {task.attempt}")

    async with app.node(views=False):
        await app.register(workflow("w", task("a", retry=SOON)))
        run = await app.start("w")
        with pytest.raises(perdure.RunFailed, match="attempt 3"):
            await run.result(timeout=10)
    assert story(database_url, run.run_id).count("TaskFailed a 3") == 1
    assert len(facts(database_url, run.run_id, "TaskFailed")) == 3
    assert_kept(database_url)


@pytest.mark.parametrize("handler", ["async", "sync"])
async def test_an_attempt_that_takes_too_long_is_timed_out_and_tried_again(database_url: str, handler: str) -> None:
    app = new_app(database_url)

    async def stuck(task: perdure.Task) -> str:
        await asyncio.sleep(0 if task.attempt > 1 else 30)
        return "done"

    def stuck_thread(task: perdure.Task) -> str:
        time.sleep(0 if task.attempt > 1 else 1.0)
        return "done"

    app.task("work")(stuck if handler == "async" else stuck_thread)
    async with app.node(views=False):
        await app.register(workflow("w", task("a", timeout=0.1, retry=SOON)))
        run = await app.start("w")
        assert await run.result(timeout=10) == {"a": "done"}
    assert story(database_url, run.run_id)[3:] == [
        "TaskTimedOut a 1", "TaskScheduled a 2", "TaskStarted a 2", "TaskCompleted a 2", "RunCompleted",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (float("nan"), "nan is not JSON"),
        ({"\0": 1}, "U+0000"),
        (object(), "cannot be written as JSON"),
        (2**70, "integer"),
        ("x" * 20_000_000, "more than the limit"),
    ],
    ids=["nan", "nul", "object", "integer", "20 MB"],
)
async def test_an_output_that_cannot_be_kept_fails_the_task_with_a_sentence(
    database_url: str, output: Any, said: str
) -> None:
    app = new_app(database_url)

    @app.task()
    async def work() -> Any:
        return output

    async with app.node(views=False):
        await app.register(workflow("w", task("a", retry=SOON)))
        run = await app.start("w")
        with pytest.raises(perdure.RunFailed, match=said.replace("+", r"\+")) as failed:
            await run.result(timeout=10)
    assert len(facts(database_url, run.run_id, "TaskFailed")) == 1, "it is no use to try again"
    assert len(str(failed.value)) < 500
    assert_kept(database_url)


@pytest.mark.parametrize(
    "error",
    [perdure.NoRetry("enough"), asyncio.CancelledError(), BaseExceptionGroup("both", [ValueError("x")])],
    ids=["no retry", "cancelled", "group"],
)
async def test_whatever_a_handler_raises_the_node_lives_and_the_run_ends(
    database_url: str, error: BaseException
) -> None:
    app = new_app(database_url)
    calls = []

    @app.task()
    async def work() -> None:
        calls.append(error)
        raise error

    async with app.node(views=False):
        await app.register(workflow("w", task("a", retry={"attempts": 2, "initial": 0.01, "jitter": 0})))
        for _ in range(2):
            run = await app.start("w")
            with pytest.raises(perdure.RunFailed):
                await run.result(timeout=10)
    assert_kept(database_url)
    if isinstance(error, perdure.NoRetry):
        assert len(calls) == 2


async def test_fail_fast_cancels_what_is_under_way_and_starts_nothing_new(database_url: str) -> None:
    app = new_app(database_url)
    cancelled = asyncio.Event()
    under_way = asyncio.Event()
    recorder(app, "other")

    @app.task()
    async def slow() -> None:
        under_way.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    @app.task()
    async def failing() -> None:
        await under_way.wait()
        raise perdure.NoRetry("no")

    async with app.node(views=False):
        await app.register(
            workflow("w", task("a", type="slow"), task("b", type="failing"), task("c", "a.completed", type="other"),
                     fail_fast=True)
        )  # fmt: skip
        run = await app.start("w")
        with pytest.raises(perdure.RunFailed):
            await run.result(timeout=5)
        assert cancelled.is_set()
    assert "TaskCancelled a 1" in story(database_url, run.run_id)
    assert "TaskStarted c 1" not in story(database_url, run.run_id)
    assert_kept(database_url)


@pytest.mark.parametrize("seconds", [0.0, 30.0], ids=["ending", "endless"])
async def test_a_run_ends_at_its_deadline_with_whatever_is_under_way(database_url: str, seconds: float) -> None:
    """Attempts that begin at the very moment their run stops are told as well, and no slot is lost."""
    app = new_app(database_url, concurrency=2)

    @app.task()
    async def work() -> None:
        await asyncio.sleep(seconds)

    chain = [task(f"t{n}", *([f"t{n - 1}.completed"] if n else [])) for n in range(400)]
    async with app.node(views=False):
        await app.register(workflow("w", *chain, deadline=0.15))
        runs = [await app.start("w") for _ in range(6)]
        for run in runs:
            with pytest.raises(perdure.RunTimedOut):
                await run.result(timeout=10)
        assert app.client.node is not None
        assert app.client.node.tenure is not None
        assert app.client.node.tenure.holder.placement.slots.free == 2
    assert_kept(database_url)


async def test_a_deadline_is_kept_for_a_run_that_another_process_started(database_url: str) -> None:
    app, client = new_app(database_url), new_app(database_url)
    recorder(app, seconds=30)
    recorder(client)
    async with app.node(views=False), client:
        await client.register(workflow("w", task("a"), deadline=0.3))
        run = await client.start("w")
        with pytest.raises(perdure.RunTimedOut):
            await run.result(timeout=5)


async def test_no_more_attempts_at_once_than_there_are_slots(database_url: str) -> None:
    app = new_app(database_url, concurrency=3)
    now = most = 0

    @app.task()
    async def work() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1

    async with app.node(views=False):
        await app.register(workflow("w", *[task(f"t{n}") for n in range(10)]))
        runs = [await app.start("w") for _ in range(3)]
        for run in runs:
            await run.result(timeout=10)
    assert most == 3


async def test_a_task_type_added_while_the_node_runs_starts_what_waited_for_it(database_url: str) -> None:
    app = new_app(database_url)
    async with app.node(views=False):
        await app.register(workflow("w", task("a", type="late")), allow_unknown_types=True)
        run = await app.start("w")
        with pytest.raises(perdure.StillOpen):
            await run.result(timeout=0.2)
        assert story(database_url, run.run_id) == ["RunStarted", "TaskScheduled a 1"]

        @app.task("late")
        async def late() -> str:
            return "better"

        assert await run.result(timeout=5) == {"a": "better"}


async def test_a_task_type_that_goes_while_its_task_waits_for_a_slot_holds_up_nobody(database_url: str) -> None:
    app = new_app(database_url, concurrency=1)
    recorder(app, seconds=0.2)
    recorder(app, "gone")
    async with app.node(views=False):
        await app.register(workflow("w", task("a"), task("b", type="gone", retry=ONCE)))
        run = await app.start("w")
        await until(lambda: "TaskStarted a 1" in story(database_url, run.run_id))
        app.types.remove("gone")
        await app.register(workflow("v", task("a")))
        assert await (await app.start("v")).result(timeout=5) == {"a": {}}


async def test_listeners_hear_published_events_and_the_engines_own(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    heard: list[tuple[str, Any]] = []

    @app.on("data_ready", "task_completed")
    async def hear(event: perdure.Event) -> None:
        heard.append((event.name, event.payload))

    @app.on("data_ready")
    def broken(event: perdure.Event) -> None:
        raise RuntimeError("a listener's own fault")

    async with app.node(views=False):
        await app.register(workflow("w", task("a", inputs={"n": 1})))
        await app.publish("data_ready", {"rows": 3})
        await app.publish("something_else")
        await (await app.start("w")).result(timeout=10)
        await until(lambda: len(heard) >= 2)
    assert heard == [("data_ready", {"rows": 3}), ("task_completed", {"output": {"n": 1}})]


async def test_a_listener_hears_what_comes_and_nothing_of_before(database_url: str) -> None:
    async with new_app(database_url) as client:
        for n in range(3):
            await client.publish("data_ready", n)
    app = new_app(database_url)
    heard: list[Any] = []
    app.on("data_ready")(lambda event: heard.append(event.payload))
    async with app:
        await asyncio.sleep(0.3)
        await app.publish("data_ready", 3)
        await until(lambda: heard)
    assert heard == [3]


async def test_a_durable_subscription_survives_a_restart_and_misses_nothing(database_url: str) -> None:
    heard: list[int] = []
    positions: list[int] = []
    failing = True

    def subscriber() -> perdure.App:
        app = new_app(database_url)

        @app.subscribe("audit", "data_ready", from_start=True)
        async def hear(event: perdure.Event) -> None:
            if event.payload == 4 and failing:
                raise RuntimeError("not yet")
            heard.append(event.payload)
            positions.append(event.position)

        return app

    client = new_app(database_url)
    async with client:
        for n in range(3):
            await client.publish("data_ready", n)
        async with subscriber():
            await until(lambda: len(heard) == 3)
            for n in range(3, 6):
                await client.publish("data_ready", n)
            await until(lambda: len(heard) == 4)
            await asyncio.sleep(0.2)
        failing = False
        for n in range(6, 9):
            await client.publish("data_ready", n)
        async with subscriber():
            await until(lambda: len(heard) >= 9)
    # At least once: what was heard just as the process stopped may come again, and nothing else.
    assert sorted(set(heard)) == list(range(9))
    assert len(heard) <= 10
    assert list(dict.fromkeys(heard)) == list(range(9))
    assert positions == sorted(positions)


async def test_a_run_waits_for_its_turn_in_another_runs_failure(database_url: str) -> None:
    """An unreadable letter does not keep those behind it from their runs."""
    app = new_app(database_url)
    recorder(app)
    waits = task("b", {"all": ["a.completed", {"event": "came", "within": "1h"}]})
    async with app.node(views=False):
        await app.register(workflow("w", task("a", "began"), waits))
        (run,) = await (await app.publish("began")).runs()
        async with app.database.begin() as connection:
            await connection.exec_driver_sql(
                f"insert into perdure.inbox (run, shard, kind, event) select '{run.run_id}',"
                f" {run.run_id.bytes[15] % 64}, 'event', '{UUID(int=1)}'"
            )
        await app.publish("came")
        await run.result(timeout=5)

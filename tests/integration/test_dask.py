"""Handlers on a Dask cluster: a real scheduler and real workers, killed with -9."""

import asyncio
import importlib
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask_handlers
import pytest
from applications import facts, new_app, story, task, until, workflow
from dask_cluster import PATH, ROOT, DaskCluster, kill
from distributed import Client

import perdure
from perdure.dask import CannotTravel, DaskError, DaskExecutor, LostOnCluster
from perdure.dask.worker_side import execute

SOON = {"attempts": 3, "initial": 0.05, "jitter": 0}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    cluster = DaskCluster(tmp_path_factory.mktemp("dask"))
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(standing: DaskCluster) -> DaskCluster:
    """A scheduler and two workers, whoever was killed before."""
    while len(standing.alive()) < 2:
        standing.add_worker()
    standing.wait_for_workers()
    return standing


@pytest.fixture
def executor(cluster: DaskCluster) -> Iterator[DaskExecutor]:
    executor = DaskExecutor(cluster.address)
    yield executor
    executor.shutdown(cancel_futures=True)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Where every call is noted; while `hang` lies beside it, calls do not end by themselves."""
    notes = tmp_path / "notes"
    notes.touch()
    (tmp_path / "hang").touch()
    return notes


def release(notes: Path) -> None:
    notes.with_name("hang").unlink()


def calls(notes: Path) -> list[tuple[str, int, int]]:
    """Task, attempt and process of every call."""
    lines = [line.split() for line in notes.read_text().splitlines()]
    return [(name, int(attempt), int(process)) for name, attempt, process in lines]


def one(notes: Path, **more: Any) -> dict[str, Any]:
    return workflow("one", task("a", inputs={"notes": str(notes)}, **more))


def a_task() -> perdure.Task:
    return perdure.Task(uuid4(), "one", "a", 1, {}, 1)


async def test_a_hundred_tasks_use_both_workers(database_url: str, executor: DaskExecutor, notes: Path) -> None:
    release(notes)
    app = new_app(database_url)
    app.task(executor=executor)(dask_handlers.work)
    many = [task(f"t{n}", inputs={"notes": str(notes), "seconds": 0.02}) for n in range(100)]
    async with app.node(views=False):
        await app.register(workflow("many", *many))
        run = await app.start("many")
        outputs = await run.result(timeout=30)
    assert {output["key"] for output in outputs.values()} == {f"{run.run_id}:t{n}" for n in range(100)}
    assert Counter(name for name, _, _ in calls(notes)) == Counter(f"t{n}" for n in range(100))
    shares = Counter(process for _, _, process in calls(notes))
    assert len(shares) == 2
    assert min(shares.values()) >= 20, shares


@pytest.mark.parametrize("another", [True, False], ids=["another is free", "it was the last"])
async def test_a_task_whose_worker_is_killed_is_interrupted_and_tried_again(
    database_url: str, cluster: DaskCluster, executor: DaskExecutor, notes: Path, another: bool
) -> None:
    if not another:
        kill(cluster.alive()[0])
    app = new_app(database_url)
    app.task("work", executor=executor, retry=perdure.Retry(attempts=1))(dask_handlers.work)
    async with app.node(views=False):
        await app.register(one(notes))
        run = await app.start("one")
        await until(lambda: calls(notes))
        cluster.kill_worker(calls(notes)[0][2])
        await until(lambda: "TaskInterrupted a 1" in story(database_url, run.run_id), 3)
        release(notes)
        if not another:
            await asyncio.sleep(0.5)
            assert story(database_url, run.run_id)[-1] == "TaskStarted a 2"
            cluster.add_worker()
        assert (await run.result(timeout=20))["a"]["key"] == f"{run.run_id}:a"
    assert story(database_url, run.run_id)[2:6] == [
        "TaskStarted a 1", "TaskInterrupted a 1", "TaskScheduled a 2", "TaskStarted a 2",
    ]  # fmt: skip
    assert [(name, attempt) for name, attempt, _ in calls(notes)] == [("a", 1), ("a", 2)]


async def test_a_worker_that_dies_disturbs_no_other_work(database_url: str, cluster: DaskCluster, notes: Path) -> None:
    app, made = new_app(database_url), list[DaskExecutor]()

    def make() -> DaskExecutor:
        made.append(DaskExecutor(cluster.address))
        return made[-1]

    app.task("work", executor=make)(dask_handlers.work)
    four = [task(f"t{n}", inputs={"notes": str(notes)}) for n in range(4)]
    async with app.node(views=False):
        await app.register(workflow("four", *four))
        run = await app.start("four")
        await until(lambda: len(calls(notes)) == 4)
        victim = calls(notes)[0][2]
        others = {name for name, _, process in calls(notes) if process != victim}
        assert others
        cluster.kill_worker(victim)
        await until(lambda: "TaskInterrupted" in " ".join(story(database_url, run.run_id)), 3)
        release(notes)
        await run.result(timeout=20)
    completed = {fact["task_id"]: fact["attempt"] for fact in facts(database_url, run.run_id, "TaskCompleted")}
    assert {completed[name] for name in others} == {1}
    assert len(made) == 1
    await asyncio.to_thread(made[0].shutdown)


async def test_at_most_once_is_called_at_most_once_whatever_dask_would_do(
    database_url: str, cluster: DaskCluster, executor: DaskExecutor, notes: Path
) -> None:
    app = new_app(database_url)
    app.task("work", executor=executor, delivery="at_most_once")(dask_handlers.work)
    async with app.node(views=False):
        await app.register(one(notes))
        run = await app.start("one")
        await until(lambda: calls(notes))
        cluster.kill_worker(calls(notes)[0][2])
        with pytest.raises(perdure.RunFailed):
            await run.result(timeout=10)
    # Time for Dask to hand it to the worker that is left, and it does.
    await asyncio.sleep(0.5)
    assert len(calls(notes)) == 1


async def test_workers_killed_at_random_make_no_attempt_be_called_twice(
    database_url: str, cluster: DaskCluster, executor: DaskExecutor, notes: Path
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    release(notes)
    app = new_app(database_url)
    app.task("work", executor=executor, retry=perdure.Retry(attempts=1))(dask_handlers.work)
    many = [task(f"t{n}", inputs={"notes": str(notes), "seconds": 0.1}) for n in range(40)]
    async with app.node(views=False):
        await app.register(workflow("many", *many))
        run = await app.start("many")
        for _ in range(2):
            await asyncio.sleep(chance.uniform(0, 0.4))
            kill(chance.choice(cluster.alive()))
            cluster.add_worker()
        assert len(await run.result(timeout=30)) == 40
    called = Counter((name, attempt) for name, attempt, _ in calls(notes))
    assert set(called.values()) == {1}
    completed = {(fact["task_id"], fact["attempt"]) for fact in facts(database_url, run.run_id, "TaskCompleted")}
    assert len(completed) == 40
    assert completed <= set(called)
    interrupted = facts(database_url, run.run_id, "TaskInterrupted")
    assert len(called) <= 40 + len(interrupted)


def test_whoever_comes_second_for_the_same_attempt_is_refused(
    cluster: DaskCluster, executor: DaskExecutor, notes: Path
) -> None:
    promised = executor.submit(dask_handlers.work, task=a_task(), notes=str(notes))
    wait_for(lambda: calls(notes))
    with Client(cluster.address, set_as_default=False) as client:
        again = client.submit(execute, b"", promised.name, "nobody hears", pure=False).result(timeout=10)
    assert again[0] == "refused"
    assert promised.running()
    release(notes)
    assert promised.result(10)["told"] is False
    assert len(calls(notes)) == 1


@pytest.mark.parametrize("how", ["killed", "restarted by another client"])
async def test_what_a_lost_scheduler_had_is_interrupted_and_tried_again(
    database_url: str, cluster: DaskCluster, executor: DaskExecutor, notes: Path, how: str
) -> None:
    app = new_app(database_url)
    app.task("work", executor=executor, retry=perdure.Retry(attempts=1))(dask_handlers.work)
    async with app.node(views=False):
        await app.register(one(notes))
        run = await app.start("one")
        await until(lambda: calls(notes))
        if how == "killed":
            kill(cluster.scheduler)
        else:
            async with Client(cluster.address, asynchronous=True, set_as_default=False) as client:
                await client.restart(wait_for_workers=False)
        await until(lambda: "TaskInterrupted a 1" in story(database_url, run.run_id), 3)
        release(notes)
        if how == "killed":
            cluster.start_scheduler()
        # Workers go when their scheduler does.
        await until(lambda: not cluster.alive())
        cluster.add_worker()
        await run.result(timeout=20)
    assert [(name, attempt) for name, attempt, _ in calls(notes)] == [("a", 1), ("a", 2)]


async def test_what_waits_for_a_worker_ends_at_once_with_its_run(
    database_url: str, cluster: DaskCluster, notes: Path
) -> None:
    app = new_app(database_url)
    nobody_has = DaskExecutor(cluster.address, resources={"GPU": 1})
    app.task("work", executor=nobody_has)(dask_handlers.work)
    async with app.node(views=False):
        await app.register(one(notes))
        run = await app.start("one")
        await until(lambda: story(database_url, run.run_id)[-1] == "TaskStarted a 1")
        await asyncio.sleep(0.5)
        await app.cancel(run.run_id)
        with pytest.raises(perdure.RunCancelled):
            await run.result(timeout=3)
    await asyncio.to_thread(nobody_has.shutdown)
    assert not calls(notes)


@pytest.mark.parametrize("why", ["cancelled", "out of time"])
async def test_a_handler_on_the_cluster_is_told_to_end(
    database_url: str, executor: DaskExecutor, notes: Path, why: str
) -> None:
    app, timeout = new_app(database_url), 1.0 if why == "out of time" else None
    app.task("work", executor=executor, timeout=timeout, retry=perdure.Retry(attempts=1))(dask_handlers.work)
    async with app.node(views=False):
        await app.register(one(notes))
        run = await app.start("one")
        await until(lambda: calls(notes))
        if why == "cancelled":
            await app.cancel(run.run_id)
        with pytest.raises(perdure.RunCancelled if why == "cancelled" else perdure.RunFailed):
            await run.result(timeout=4)
    # It ended because it was told: what should make it hang is still there.
    assert "TaskTimedOut a 1" in story(database_url, run.run_id) or why == "cancelled"
    assert notes.with_name("hang").exists()


async def test_where_no_scheduler_is_the_attempt_fails_with_a_sentence(database_url: str, notes: Path) -> None:
    app = new_app(database_url)
    executor = DaskExecutor("tcp://127.0.0.1:9", connect_timeout=0.3)
    app.task("work", executor=executor)(dask_handlers.work)
    async with app.node(views=False):
        await app.register(one(notes, retry=SOON))
        run = await app.start("one")
        with pytest.raises(perdure.RunFailed, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 within 0\.3 s"):
            await run.result(timeout=10)
    await asyncio.to_thread(executor.shutdown)
    assert story(database_url, run.run_id).count("TaskFailed a 3") == 1


def test_a_cancel_in_the_moment_of_its_beginning_reaches_it(executor: DaskExecutor, notes: Path) -> None:
    for _ in range(10):
        promised = executor.submit(dask_handlers.work, task=a_task(), notes=str(notes))
        while not promised.running():
            time.sleep(0.0002)
        assert promised.cancel() is False
        assert promised.result(5)["told"] is True


def test_what_is_no_cluster_is_refused_with_a_sentence() -> None:
    for strange in ("localhost", 8786, None):
        with pytest.raises(DaskError, match="a Dask scheduler's address is like tcp://host:8786"):
            DaskExecutor(strange)


def test_without_dask_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "perdure.dask")
    with pytest.raises(ImportError, match=r"install perdure\[dask\]"):
        importlib.import_module("perdure.dask")


def test_a_client_is_taken_for_its_address(cluster: DaskCluster) -> None:
    with Client(cluster.address, set_as_default=False) as client:
        executor = DaskExecutor(client)
    with executor:
        assert executor.submit(sum, [1, 2]).result(10) == 3
    with pytest.raises(RuntimeError, match="was shut down"):
        executor.submit(sum, [1, 2])


def test_what_cannot_travel_is_refused_with_a_sentence(executor: DaskExecutor) -> None:
    with pytest.raises(CannotTravel, match="the handler or its arguments cannot be sent to the Dask cluster: TypeErr"):
        executor.submit(print, threading.Lock()).result(10)
    with pytest.raises(CannotTravel, match="its result, generator, cannot be pickled"):
        executor.submit(dask_handlers.unpicklable).result(10)
    with pytest.raises(CannotTravel, match=r"no_such_module_here.*the worker needs the packages and modules"):
        executor.submit(print, dask_handlers.Elsewhere()).result(10)


def test_what_a_handler_raises_comes_back(cluster: DaskCluster, executor: DaskExecutor) -> None:
    with pytest.raises(perdure.NoRetry, match="never again") as raised:
        executor.submit(dask_handlers.fail, "no retry").result(10)
    assert "in fail" in str(raised.value.__cause__)
    with pytest.raises(RuntimeError, match="Unusual: 1 and 2"):
        executor.submit(dask_handlers.fail, "unusual").result(10)
    with pytest.raises(SystemExit):
        executor.submit(dask_handlers.fail, "exit").result(10)
    assert len(cluster.alive()) == 2
    with pytest.raises(LostOnCluster):
        executor.submit(dask_handlers.fail, "its whole process").result(10)


def test_a_large_result_comes_back(executor: DaskExecutor) -> None:
    assert len(executor.submit(dask_handlers.large, 20).result(20)) == 20 * 1024 * 1024


def test_shut_down_it_gives_up_what_is_under_way(cluster: DaskCluster, notes: Path) -> None:
    executor = DaskExecutor(cluster.address)
    begun = executor.submit(dask_handlers.work, task=a_task(), notes=str(notes))
    wait_for(lambda: calls(notes))
    executor.shutdown(cancel_futures=True)
    with pytest.raises(LostOnCluster, match="was shut down"):
        begun.result(1)
    release(notes)


MAIN = """
import asyncio
import sys

import perdure
from perdure.dask import DaskExecutor

app = perdure.App(sys.argv[1])
FACTOR = 7


@app.task(executor=DaskExecutor(sys.argv[2]))
def multiply(n: int, task: perdure.Task) -> str:
    return f"{n * FACTOR} in {task.task_id}"


async def main() -> None:
    async with app.node():
        await app.register({
            "workflow_id": "w", "tasks": [{"task_id": "a", "type": "multiply", "triggers": [], "inputs": {"n": 6}}],
        })
        print(await (await app.start("w")).result(timeout=20))


asyncio.run(main())
"""


def test_a_handler_of_the_users_own_script_works(database_url: str, cluster: DaskCluster, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(MAIN)
    done = subprocess.run(
        [sys.executable, str(script), database_url, cluster.address], capture_output=True, text=True, timeout=40,
        env={"PYTHONPATH": PATH}, check=False,
    )  # fmt: skip
    assert done.stdout == "{'a': '42 in a'}\n", done.stderr
    assert done.stderr == ""


async def test_the_program_of_the_page_runs(database_url: str, cluster: DaskCluster) -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "the_page"}
    program = program.replace("embedded:.perdure", database_url).replace(
        "tcp://scheduler.example:8786", cluster.address
    )
    exec(compile(program, "docs/scaling.md", "exec"), names)
    app: perdure.App = names["app"]
    async with app.node(views=False):
        await app.register(workflow("one", task("a", type="simulate", inputs={"steps": 5})))
        assert (await (await app.start("one")).result(timeout=20))["a"] == pytest.approx(6.146, abs=0.001)


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"nothing after {seconds} s"
        time.sleep(0.01)

"""The doctor and attempts on other nodes than their run's owner: rows that are lost or wrong, and no false alarm."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import pytest
from acceptance.checker import assert_kept
from applications import new_app, shards, story, task, until, workflow
from logs import execute, rows

import perdure
from perdure_engine import tenure

pytestmark = pytest.mark.every_postgres

FAR = workflow(
    "far", task("a", type="near"), task("b", "a.completed", type="far"), task("c", "b.completed", type="near")
)
ONCE = workflow("once", task("b", type="far_once"))
DEAF = workflow("deaf", task("a", type="near"), task("b", "a.completed", type="deaf"))


class Fleet:
    """Two nodes; what is far is executed by the second alone, and ends when it is let go."""

    def __init__(self, url: str) -> None:
        self.url, self.go = url, asyncio.Event()
        self.calls = list[tuple[UUID, int]]()
        self.near, self.far = self.app("near"), self.app("far", "far_once", "deaf")

    def app(self, *types: str) -> perdure.App:
        app = new_app(self.url)

        async def near(task: perdure.Task) -> None:
            pass

        async def far(task: perdure.Task) -> str:
            self.calls.append((task.run_id, task.attempt))
            await self.go.wait()
            return "done"

        async def deaf(task: perdure.Task) -> None:
            until_ = asyncio.get_running_loop().time() + 1.0
            while (left := until_ - asyncio.get_running_loop().time()) > 0:
                try:
                    await asyncio.sleep(left)
                except asyncio.CancelledError:
                    continue

        handlers: dict[str, Any] = {"near": near, "far": far, "far_once": far, "deaf": deaf}
        for type_ in types:
            app.task(type_, delivery="at_most_once" if type_ == "far_once" else "at_least_once")(handlers[type_])
        return app

    async def started_away(self, workflow_id: str) -> perdure.Run:
        """A run of the first node whose task ``b`` is under way on the second."""
        while True:
            run = await self.near.start(workflow_id)
            await until(lambda run=run: "TaskStarted b 1" in story(self.url, run.run_id))  # type: ignore[misc]
            await until(lambda run=run: (run.run_id, 1) in self.calls)  # type: ignore[misc]
            if rows(self.url, "select from perdure.assignments where run = %s", (run.run_id,)):
                return run


@pytest.fixture
async def fleet(database_url: str) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as nodes:
        fleet = Fleet(database_url)
        for app in (fleet.near, fleet.far):
            await nodes.enter_async_context(app.node(views=False))
        await until(lambda: sorted(map(len, shards(database_url).values())) == [32, 32], 15)
        for document in (FAR, ONCE, DEAF):
            await fleet.near.register(document, allow_unknown_types=True)
        yield fleet
        fleet.go.set()


async def test_an_attempt_whose_row_was_lost_is_found_and_interrupted(fleet: Fleet) -> None:
    again, once = await fleet.started_away("far"), await fleet.started_away("once")
    assert (await fleet.near.doctor()).faults == []
    execute(fleet.url, f"delete from perdure.assignments where run in ('{again.run_id}', '{once.run_id}')")
    found = (await fleet.near.doctor()).faults
    wheres = sorted((fault.where for fault in found), key=str)
    assert wheres == sorted(({"run": run.run_id, "task_id": "b"} for run in (again, once)), key=str)
    assert all(f"there is no row, the log says attempt 1, node {node_id(fleet.far)} " in str(each) for each in found)
    # Nobody says what came of it: without the doctor it would be under way for ever.
    assert story(fleet.url, again.run_id)[-1] == "TaskStarted b 1"
    repaired = await fleet.near.doctor(repair=True)
    assert repaired.repaired and repaired.left == []
    await until(lambda: "TaskStarted b 2" in story(fleet.url, again.run_id))
    assert (await fleet.near.doctor()).faults == []
    fleet.go.set()
    assert (await again.result(timeout=10))["b"] == "done"
    assert "TaskInterrupted b 1" in story(fleet.url, again.run_id)
    with pytest.raises(perdure.RunFailed):
        await once.result(timeout=10)
    assert [attempt for run, attempt in fleet.calls if run == once.run_id] == [1]
    await until(lambda: not rows(fleet.url, "select from perdure.inbox"))
    assert (await fleet.near.doctor()).faults == []
    assert_kept(fleet.url, at_rest=False)


async def test_a_row_of_an_attempt_under_way_is_compared(fleet: Fleet) -> None:
    run = await fleet.started_away("far")
    look = "select a::text from perdure.assignments a where run = %s"
    healthy = rows(fleet.url, look, (run.run_id,))
    for wrong in ("digest = 'another'", "shard = (shard + 1) % 64"):
        execute(fleet.url, f"update perdure.assignments set {wrong} where run = '{run.run_id}'")
        (fault,) = (await fleet.near.doctor(repair=True)).faults
        assert (fault.table, fault.where) == ("assignments", {"run": run.run_id, "task_id": "b"})
        assert rows(fleet.url, look, (run.run_id,)) == healthy
    fleet.go.set()
    await run.result(timeout=10)


async def test_nothing_is_missed_while_attempts_are_given_taken_back_and_handed_over(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice, looks = random.Random(seed), 0
    monkeypatch.setattr(tenure, "CANCEL_GRACE", 0.1)
    monkeypatch.setattr(tenure, "_ON_THE_WAY", 0.05)
    fleet.go.set()
    work = asyncio.create_task(load(fleet, dice))
    while not work.done():
        diagnosis = await fleet.near.doctor(repair=looks % 5 == 4)
        assert diagnosis.faults == [], [*map(str, diagnosis.faults)]
        looks += 1
    await work
    await until(lambda: not rows(fleet.url, "select from perdure.open_runs"), 20)
    assert (await fleet.near.doctor()).faults == []
    assert rows(fleet.url, "select from perdure.events where type = 'TaskCancelled'")
    print(f"{looks} looks")
    assert looks > 10


async def load(fleet: Fleet, dice: random.Random) -> None:
    """Runs of both workflows, most of the deaf ones cancelled, and a node that comes and goes."""
    for number in range(60):
        run = await fleet.near.start(dice.choice(["far", "deaf"]))
        if dice.random() < 0.5:
            asyncio.get_running_loop().call_later(0.3, cancel, fleet.near, run)
        if number % 20 == 10:
            async with fleet.app("near", "far").node(views=False):
                await asyncio.sleep(1.5)
        await asyncio.sleep(dice.random() * 0.05)


def cancel(app: perdure.App, run: perdure.Run) -> None:
    cancelling.add(task := asyncio.ensure_future(app.cancel(run.run_id)))
    task.add_done_callback(cancelling.discard)


cancelling = set[asyncio.Future[None]]()


def node_id(app: perdure.App) -> UUID:
    assert app.client.node is not None and app.client.node.tenure is not None
    return app.client.node.tenure.node_id

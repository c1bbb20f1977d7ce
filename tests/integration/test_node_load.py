"""A node with more to do than slots to do it in."""

import asyncio

import pytest
from applications import new_app, recorder, task, workflow
from logs import execute, rows

import perdure
from perdure_engine import bound
from perdure_engine.definitions.definition import Retry
from perdure_engine.identity import shard_of


def app_on(url: str, concurrency: int) -> perdure.App:
    app = perdure.App(url, settings=perdure.Settings(database_url=url, concurrency=concurrency))

    @app.task("count")
    async def count(i: int) -> int:
        if i == 0:
            raise perdure.NoRetry("the first of all fails")
        return i

    @app.task("wait", retry=Retry(attempts=1))
    async def wait(i: int) -> int:
        await asyncio.sleep(0.05)
        return i

    return app


def wide(kind: str, tasks: int, **more: object) -> dict[str, object]:
    each = [{"task_id": f"t{i}", "type": kind, "triggers": [], "inputs": {"i": i}} for i in range(tasks)]
    return {"workflow_id": "wide", "tasks": each, **more}


async def test_thousands_of_queued_tasks_of_a_run_that_stops_give_their_slots_back(database_url: str) -> None:
    async with app_on(database_url, 10).node() as app:
        await app.register(wide("count", 2_000, fail_fast=True))
        with pytest.raises(perdure.RunFailed):
            await (await app.start("wide")).result(timeout=30)
        tenure = app.client.node.tenure if app.client.node else None
        assert tenure is not None
        assert (tenure.holder.placement.slots.free, tenure.holder.placement.slots.waiting) == (10, 0)
        assert len(tenure.attempts) == 0


async def test_inbox_and_timers_are_served_while_the_node_is_busy(database_url: str) -> None:
    async with app_on(database_url, 50).node() as app:
        await app.register(wide("wait", 2_000))
        first: dict[str, object] = {"task_id": "first", "type": "count", "triggers": ["begun"], "inputs": {"i": 1}}
        late: dict[str, object] = {"task_id": "late", "type": "count", "depends_on": ["first"], "inputs": {"i": 2}}
        late["triggers"] = [{"event": "never", "within": 0.3}]
        await app.register({"workflow_id": "waiting", "tasks": [first, late]})
        busy = await app.start("wide")
        waits = await app.start("waiting")
        # The first task waits behind thousands for a slot; the wait of the other is over in the middle of the load.
        async with asyncio.timeout(10):
            while (await waits.state()).task("late").status != "skipped":
                await asyncio.sleep(0.02)
        assert await busy.status() == "open"
        assert len(await busy.result(timeout=60)) == 2_000


async def test_a_row_that_appears_late_below_those_already_read_is_read_by_the_next_sweep(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bound, "_BEHIND", 0.1)
    monkeypatch.setattr(bound, "_SWEEP", 1.0)
    app = new_app(database_url)
    recorder(app)
    last = task("last", {"all": ["first.completed", {"event": "never", "within": "1h"}]})
    async with app.node(views=False):
        await app.register(workflow("w", task("first"), last))
        late, others = await app.start("w"), [await app.start("w") for _ in range(8)]
        # Their numbers are drawn in one order, and they commit in another.
        (number,) = rows(database_url, "select nextval('perdure.inbox_id_seq')")[0]
        for run in others:
            await app.cancel(run.run_id)
            await asyncio.sleep(0.1)
        command = f"""insert into perdure.inbox (id, run, shard, kind, detail) overriding system value
            values ({number}, '{late.run_id}', {shard_of(late.run_id)}, 'cancel', '{{}}')"""
        execute(database_url, command)
        with pytest.raises(perdure.RunCancelled):
            await late.result(timeout=10)


class _Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


@pytest.mark.parametrize(
    "raised", [SystemExit(3), KeyboardInterrupt(), StopIteration(), _Unreadable()], ids=lambda each: type(each).__name__
)
@pytest.mark.parametrize("in_a_thread", [False, True], ids=["async", "in a thread"])
async def test_whatever_a_handler_raises_fails_its_task_and_not_the_node(
    database_url: str, raised: BaseException, in_a_thread: bool
) -> None:
    app = app_on(database_url, 10)

    async def throw() -> None:
        raise raised

    def throw_in_a_thread() -> None:
        raise raised

    app.task("raise", retry=Retry(attempts=1))(throw_in_a_thread if in_a_thread else throw)
    async with app.node():
        await app.register({"workflow_id": "w", "tasks": [{"task_id": "a", "type": "raise", "triggers": []}]})
        run = await app.start("w")
        with pytest.raises(perdure.RunFailed):
            await run.result(timeout=10)
        state = await run.state()
        assert state.task("a").error is not None

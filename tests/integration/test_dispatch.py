"""Tasks that other nodes than their run's owner execute: nodes with disjoint types, deaths, cancels, hand-overs."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import lives
import psycopg
import pytest
from acceptance.checker import assert_kept
from acceptance.forks import ForkServer, fork_server
from applications import SOON, facts, new_app, recorder, shards, story, task, until, workflow
from logs import rows
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

import perdure
from perdure_engine import tenure
from perdure_engine.assignments import Assignments
from perdure_engine.identity import shard_of
from perdure_eventstore.errors import LogUnavailable

pytestmark = pytest.mark.every_postgres

BOTH = workflow(
    "both",
    task("a", type="left", inputs={"n": "{{n}}"}),
    task("b", "a.completed", type="right", inputs={"n": "{{tasks.a.output.n}}"}),
    task("c", "b.completed", type="left", inputs={"n": "{{tasks.b.output.n}}"}),
)


def node_of(app: perdure.App) -> Any:
    assert app.client.node is not None and app.client.node.tenure is not None
    return app.client.node.tenure


@pytest.fixture
async def nodes(database_url: str) -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def join(nodes: AsyncExitStack, url: str, *types: str, seconds: float = 0.0, **settings: Any) -> perdure.App:
    app = new_app(url, **settings)
    for type_ in types:
        recorder(app, type_, seconds)
    await nodes.enter_async_context(app.node(views=False))
    return app


async def until_even(url: str, nodes: int) -> None:
    await until(lambda: sorted(map(len, shards(url).values())) == sorted([64 // nodes] * nodes), 15)


async def test_two_nodes_with_disjoint_types_finish_one_run(database_url: str, nodes: AsyncExitStack) -> None:
    left = await join(nodes, database_url, "left")
    right = await join(nodes, database_url, "right")
    await until_even(database_url, 2)
    await left.register(BOTH, allow_unknown_types=True)
    runs = [await left.start("both", {"n": n}) for n in range(20)]
    for n, run in enumerate(runs):
        assert await run.result(timeout=15) == {task_id: {"n": n} for task_id in "abc"}
    started = [each for run in runs for each in facts(database_url, run.run_id, "TaskStarted")]
    by_task: dict[str, set[str]] = {each["task_id"]: set() for each in started}
    for each in started:
        by_task[each["task_id"]].add(each["node"])
    assert by_task == {
        "a": {str(node_of(left).node_id)}, "b": {str(node_of(right).node_id)}, "c": {str(node_of(left).node_id)}
    }  # fmt: skip
    assert rows(database_url, "select count(*) from perdure.assignments") == [(0,)]
    await until(lambda: rows(database_url, "select count(*) from perdure.inbox") == [(0,)])
    assert_kept(database_url)


async def test_a_task_whose_type_no_live_node_has_waits_for_one_that_does(
    database_url: str, nodes: AsyncExitStack
) -> None:
    left = await join(nodes, database_url, "left")
    await left.register(BOTH, allow_unknown_types=True)
    run = await left.start("both", {"n": 1})
    await until(lambda: "TaskScheduled b 1" in story(database_url, run.run_id))
    await asyncio.sleep(0.5)
    assert story(database_url, run.run_id)[-1] == "TaskScheduled b 1"
    await join(nodes, database_url, "right")
    await run.result(timeout=10)


async def test_no_node_is_looked_for_any_more_for_a_run_that_was_cancelled(
    database_url: str, nodes: AsyncExitStack
) -> None:
    left = await join(nodes, database_url, "left")
    await left.register(BOTH, allow_unknown_types=True)
    run = await left.start("both", {"n": 1})
    await until(lambda: "TaskScheduled b 1" in story(database_url, run.run_id))
    dispatch = node_of(left).holder.placement.dispatch
    assert dispatch.has_work
    await left.cancel(run.run_id)
    await until(lambda: not dispatch.has_work)


async def test_a_type_added_to_a_running_node_is_announced_and_used(database_url: str, nodes: AsyncExitStack) -> None:
    left = await join(nodes, database_url, "left")
    other = await join(nodes, database_url, "unrelated")
    await left.register(BOTH, allow_unknown_types=True)
    runs = [await left.start("both", {"n": n}) for n in range(4)]
    await until(lambda: all("TaskScheduled b 1" in story(database_url, run.run_id) for run in runs))
    recorder(other, "right")
    for run in runs:
        await run.result(timeout=10)


async def test_a_rolling_deployment_strands_nothing(database_url: str) -> None:
    """Nodes of a new release, which has one more type, take the place of the old ones, one by one, amid the work."""
    before, after = workflow("w", *chained("left", "left", "left")), workflow("w", *chained("left", "right", "left"))
    runs = list[perdure.Run]()
    deployed, places = asyncio.Event(), [AsyncExitStack(), AsyncExitStack()]

    async def users(app: perdure.App) -> None:
        while not deployed.is_set() or len(runs) < 60:
            runs.append(await app.start("w"))
            await asyncio.sleep(0.02)

    async with new_app(database_url) as client:
        for place in places:
            await join(place, database_url, "left", seconds=0.1)
        await client.register(before, allow_unknown_types=True)
        using = asyncio.create_task(users(client))
        await until(lambda: len(runs) >= 10)
        await client.register(after, allow_unknown_types=True)
        await until(lambda: len(runs) >= 20)
        for place in places:
            await place.aclose()
            await join(place, database_url, "left", "right", seconds=0.1)
        deployed.set()
        await using
        for run in runs:
            assert await run.result(timeout=20) == {"a": {}, "b": {}, "c": {}}
        for place in places:
            await place.aclose()
    versions = rows(
        database_url, "select count(distinct data ->> 'digest') from perdure.events where type = 'RunStarted'"
    )
    assert versions == [(2,)]
    assert rows(database_url, "select from perdure.events where type = 'TaskFailed'") == []
    assert_kept(database_url)


def chained(*types: str) -> list[dict[str, Any]]:
    """Tasks a, b, c and so on, each after the one before."""
    names = "abcdefg"[: len(types)]
    return [
        task(name, *([f"{names[n - 1]}.completed"] if n else []), type=type)
        for n, (name, type) in enumerate(zip(names, types, strict=True))
    ]


async def test_an_attempt_that_cannot_be_read_now_is_taken_up_later(
    database_url: str, nodes: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = await join(nodes, database_url, "left")
    await join(nodes, database_url, "right")
    await left.register(BOTH, allow_unknown_types=True)
    read, tries = Assignments._inputs, []

    async def lost(self: Assignments, row: Any) -> Any:
        tries.append(row)
        if len(tries) == 1:
            raise LogUnavailable("the connection was lost")
        return await read(self, row)

    monkeypatch.setattr(Assignments, "_inputs", lost)
    run = await left.start("both", {"n": 1})
    await run.result(timeout=10)
    assert len(tries) > 1


async def test_attempts_elsewhere_fail_time_out_and_are_tried_again(database_url: str, nodes: AsyncExitStack) -> None:
    await join(nodes, database_url, "left")
    other = new_app(database_url)

    @other.task()
    async def right(task: perdure.Task) -> int:
        if task.attempt == 1:
            raise ValueError("the first fails")
        if task.attempt == 2:
            await asyncio.sleep(30)
        return task.attempt

    await nodes.enter_async_context(other.node(views=False))
    definition = workflow("w", task("a", type="left"), task("b", "a.completed", type="right", retry=SOON, timeout=0.3))
    await other.register(definition, allow_unknown_types=True)
    runs = [await other.start("w") for _ in range(4)]
    for run in runs:
        assert (await run.result(timeout=20))["b"] == 3
        (failed,) = facts(database_url, run.run_id, "TaskFailed")
        assert failed["task_id"] == "b"


async def test_a_cancel_reaches_a_handler_on_another_node(database_url: str, nodes: AsyncExitStack) -> None:
    left = await join(nodes, database_url, "left")
    right = new_app(database_url)
    calls = recorder(right, "right", seconds=60)
    await nodes.enter_async_context(right.node(views=False))
    await left.register(BOTH, allow_unknown_types=True)
    runs = [await left.start("both", {"n": n}) for n in range(4)]
    await until(lambda: len(calls) == 4)
    for run in runs:
        await left.cancel(run.run_id)
    for run in runs:
        with pytest.raises(perdure.RunCancelled):
            await run.result(timeout=10)
        assert "TaskCancelled b 1" in story(database_url, run.run_id)
    await until(lambda: not len(node_of(right).attempts))


async def test_an_attempt_elsewhere_that_does_not_end_is_taken_back_after_its_grace(
    database_url: str, nodes: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenure, "CANCEL_GRACE", 0.3)
    monkeypatch.setattr(tenure, "_ON_THE_WAY", 0.1)

    async def keep(tenure: object) -> None:
        """The runs stay with the left node: the right one waits longer for a deaf handler of its own runs."""

    monkeypatch.setattr(tenure.Tenure, "_give_surplus", keep)
    left, right, going = await join(nodes, database_url, "left"), new_app(database_url), True
    deadline = time.monotonic() + 20
    await until(lambda: len(node_of(left).leases.shards) == 64)

    @right.task("right")
    async def deaf() -> str:
        while going and time.monotonic() < deadline:
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                continue
        return "late"

    await nodes.enter_async_context(right.node(views=False))
    await left.register(
        workflow("w", task("a", type="left"), task("b", "a.completed", type="right")), allow_unknown_types=True
    )
    runs = [await left.start("w") for _ in range(4)]
    await until(lambda: len(node_of(right).attempts) == 4)
    for run in runs:
        await left.cancel(run.run_id)
    for run in runs:
        with pytest.raises(perdure.RunCancelled):
            await run.result(timeout=10)
    going = False
    await until(lambda: not len(node_of(right).attempts))
    await until(lambda: rows(database_url, "select count(*) from perdure.inbox") == [(0,)])
    assert_kept(database_url)


async def test_an_exactly_once_handler_on_another_node_writes_once(database_url: str, nodes: AsyncExitStack) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("create table public.books (entry text)")
    left, right = await join(nodes, database_url, "left"), new_app(database_url)

    @right.task("right")
    async def book(task: perdure.Task, connection: AsyncConnection) -> str:
        await connection.execute(text("insert into public.books values (:key)"), {"key": task.idempotency_key})
        if task.attempt == 1:
            raise ValueError("what it wrote is rolled back")
        return "booked"

    await nodes.enter_async_context(right.node(views=False))
    definition = workflow("w", task("a", type="left"), task("b", "a.completed", type="right", retry=SOON))
    await left.register(definition, allow_unknown_types=True)
    runs = [await left.start("w") for _ in range(6)]
    for run in runs:
        assert (await run.result(timeout=15))["b"] == "booked"
    found = rows(database_url, "select entry from public.books order by entry")
    assert found == sorted((f"{run.run_id}:b",) for run in runs)
    assert_kept(database_url)


async def test_a_node_that_is_full_gets_no_more(database_url: str, nodes: AsyncExitStack) -> None:
    left = await join(nodes, database_url, "left")
    right = await join(nodes, database_url, "right", seconds=0.1, concurrency=2)
    wide = workflow("wide", *[task(f"t{n}", type="right") for n in range(12)])
    await left.register(wide, allow_unknown_types=True)
    run = next(run for run in [await left.start("wide") for _ in range(20)] if _owned_by(left, run))
    most = 0
    async with asyncio.timeout(20):
        while await run.status() == "open":
            count = rows(database_url, "select count(*) from perdure.assignments where run = %s", (run.run_id,))
            most = max(most, count[0][0])
            await asyncio.sleep(0.01)
    assert 1 <= most <= 2
    assert len(node_of(right).attempts) >= 0


async def test_what_finds_no_slot_begins_on_another_node_that_has_one(database_url: str, nodes: AsyncExitStack) -> None:
    apps = [await join(nodes, database_url, "work", seconds=0.3, concurrency=2) for _ in range(2)]
    await until_even(database_url, 2)
    await apps[0].register(workflow("wide", *[task(f"t{n}", type="work") for n in range(16)]))
    run = await apps[0].start("wide")
    both: list[list[int]] = []
    async with asyncio.timeout(20):
        while await run.status() == "open":
            both.append([len(node_of(app).attempts) for app in apps])
            await asyncio.sleep(0.01)
    assert [2, 2] in both
    assert all(max(numbers) <= 2 for numbers in both)
    begun = Counter(str(fact["node"]) for fact in facts(database_url, run.run_id, "TaskStarted"))
    assert len(begun) == 2
    assert min(begun.values()) >= 4, begun
    assert_kept(database_url)


async def test_a_node_that_has_enough_of_its_own_is_not_given_more(database_url: str, nodes: AsyncExitStack) -> None:
    left, right = [await join(nodes, database_url, "work", seconds=0.3, concurrency=2, lease=0.6) for _ in range(2)]
    await until_even(database_url, 2)
    await left.register(workflow("wide", *[task(f"t{n}", type="work") for n in range(40)]))
    await until_owned(right)
    loaded, node = "select from perdure.nodes where node = %s and load >= 4", node_of(right).node_id
    given = "select from perdure.assignments where node = %s"
    await until(lambda: rows(database_url, loaded, (node,)) and not rows(database_url, given, (node,)))
    await asyncio.sleep(1)  # so old may be what a node knows of the others
    await until_owned(left)
    while rows(database_url, loaded, (node,)):
        assert not rows(database_url, given, (node,))
        await asyncio.sleep(0.02)


async def until_owned(app: perdure.App) -> perdure.Run:
    """Start runs until ``app`` owns one, and only that goes on."""
    while True:
        run = await app.start("wide")
        if _owned_by(app, run):
            return run
        await app.cancel(run.run_id)


async def test_what_has_the_leave_of_its_rate_begins_where_it_asked(database_url: str, nodes: AsyncExitStack) -> None:
    for _ in range(2):
        app = new_app(database_url, concurrency=1)
        recorder(app, "work", 0.2, rate="100/s")
        await nodes.enter_async_context(app.node(views=False))
    await until_even(database_url, 2)
    await app.register(workflow("wide", *[task(f"t{n}", type="work") for n in range(4)]))
    run = await app.start("wide")
    await run.result(timeout=10)
    assert len({fact["node"] for fact in facts(database_url, run.run_id, "TaskStarted")}) == 1


def _owned_by(app: perdure.App, run: perdure.Run) -> bool:
    return shard_of(run.run_id) in node_of(app).leases.shards


async def test_a_delivery_at_most_once_holds_on_another_node(database_url: str, nodes: AsyncExitStack) -> None:
    left, right = await join(nodes, database_url, "left"), new_app(database_url)

    @right.task("right", delivery="at_most_once")
    async def fails() -> None:
        raise ValueError("no")

    await nodes.enter_async_context(right.node(views=False))
    definition = workflow("w", task("a", type="left"), task("b", "a.completed", type="right"))
    await left.register(definition, allow_unknown_types=True)
    runs = [await left.start("w") for _ in range(4)]
    for run in runs:
        with pytest.raises(perdure.RunFailed):
            await run.result(timeout=10)
        assert story(database_url, run.run_id).count("TaskStarted b 1") == 1
        assert "TaskScheduled b 2" not in story(database_url, run.run_id)


async def test_what_waits_on_another_node_and_is_cancelled_is_not_called(
    database_url: str, nodes: AsyncExitStack
) -> None:
    left = await join(nodes, database_url, "left")
    right = new_app(database_url, concurrency=2)
    called, free = list[Any](), asyncio.Event()

    @right.task("right")
    async def hold(task: perdure.Task) -> None:
        called.append(task.run_id)
        await free.wait()

    await nodes.enter_async_context(right.node(views=False))
    # How full it is is not known to the other yet, and stays so.
    node_of(right).leases.load = lambda: 0
    await until_even(database_url, 2)
    await left.register(workflow("wide", *[task(f"t{n}", type="right") for n in range(2)]), allow_unknown_types=True)
    own = await until_owned(right)
    await until(lambda: called.count(own.run_id) == 2)
    run = await until_owned(left)
    given = "select from perdure.assignments where run = %s"
    await until(lambda: rows(database_url, given, (run.run_id,)))
    await asyncio.sleep(0.2)
    await left.cancel(run.run_id)
    with pytest.raises(perdure.RunCancelled):
        await run.result(timeout=5)
    free.set()
    await own.result(timeout=5)
    await asyncio.sleep(0.3)
    assert run.run_id not in called


# Shards that move


async def test_a_node_that_joins_gets_its_share_of_the_shards_though_all_are_busy(
    database_url: str, nodes: AsyncExitStack
) -> None:
    first, moved, calls = new_app(database_url, concurrency=300), asyncio.Event(), list[UUID]()

    @first.task("work")
    async def work(task: perdure.Task) -> None:
        calls.append(task.run_id)
        await moved.wait()

    await nodes.enter_async_context(first.node(views=False))
    await first.register(workflow("two", task("a"), task("b", "a.completed")))
    runs = [await first.start("two", {"n": n}) for n in range(200)]
    await until(lambda: len(calls) == 200)
    assert len({shard_of(run.run_id) for run in runs}) > 40
    second = await join(nodes, database_url, "work", concurrency=300)
    await until_even(database_url, 2)
    assert len(calls) == 200
    moved.set()
    for run in runs:
        await run.result(timeout=20)
    assert rows(database_url, "select count(*) from perdure.events where type = 'TaskInterrupted'") == [(0,)]
    started = rows(
        database_url,
        "select data ->> 'node', count(*) from perdure.events where type = 'TaskStarted' group by 1",
    )
    assert dict(started).keys() == {str(node_of(first).node_id), str(node_of(second).node_id)}
    await until(lambda: rows(database_url, "select count(*) from perdure.inbox") == [(0,)])
    assert_kept(database_url)


async def test_what_waits_for_a_slot_moves_with_its_shard(database_url: str, nodes: AsyncExitStack) -> None:
    first = await join(nodes, database_url, "work", seconds=0.5, concurrency=1)
    await first.register(workflow("one", task("a")))
    runs = [await first.start("one") for _ in range(60)]
    await join(nodes, database_url, "work", concurrency=100)
    await until_even(database_url, 2)
    moved = [run for run in runs if not _owned_by(first, run)]
    for run in moved:
        await run.result(timeout=10)
    placement = node_of(first).holder.placement
    assert placement.slots.waiting == len(runs) - len(moved) - placement.slots.limit or placement.slots.waiting < 60


async def test_a_clean_stop_hands_over_at_once(database_url: str, nodes: AsyncExitStack) -> None:
    first, second = new_app(database_url, lease=10.0), await join(nodes, database_url, "work", lease=10.0)
    recorder(first, "work", seconds=60)
    async with first.node(views=False):
        await until_even(database_url, 2)
        await first.register(workflow("one", task("a")))
        run = next(run for run in [await first.start("one") for _ in range(20)] if _owned_by(first, run))
        await until(lambda: "TaskStarted a 1" in story(database_url, run.run_id))
    # The lease has ten seconds to go; on a quiet machine it takes a tenth of one.
    await until(lambda: len(shards(database_url).get(node_of(second).node_id, ())) == 64, 3.0)
    assert await run.result(timeout=5) == {"a": {}}


# Deaths


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("forks"), "lives") as server:
        yield server


@pytest.fixture
def start_node(forks: ForkServer, database_url: str, tmp_path: Path) -> Iterator[Any]:
    notes = tmp_path / "notes"
    notes.touch()
    yield partial(forks.fork, lives.node, url=database_url, notes=str(notes), settings={})
    forks.end_children()


ELSEWHERE = workflow(
    "elsewhere", task("a", type="left"), task("b", "a.completed", inputs={"seconds": "{{seconds}}"}),
    task("c", "b.completed", type="left"),
)  # fmt: skip


async def test_an_attempt_on_a_node_that_is_killed_is_interrupted_and_made_elsewhere(
    database_url: str, nodes: AsyncExitStack, start_node: Any
) -> None:
    owner = await join(nodes, database_url, "left")
    other = start_node()
    await until(lambda: len(shards(database_url)) == 2, 15)
    await owner.register(ELSEWHERE, allow_unknown_types=True)
    runs = [await owner.start("elsewhere", {"seconds": 2.5}) for _ in range(20)]
    run = next(run for run in runs if _owned_by(owner, run))
    await until(lambda: "TaskStarted b 1" in story(database_url, run.run_id))
    other.kill()
    start_node()
    assert (await run.result(timeout=20))["b"]
    assert "TaskInterrupted b 1" in story(database_url, run.run_id)
    for each in runs:
        await each.result(timeout=20)
    assert_kept(database_url)


async def test_an_attempt_elsewhere_goes_on_when_its_runs_owner_is_killed(
    database_url: str, nodes: AsyncExitStack, start_node: Any
) -> None:
    owner = start_node()
    await until(lambda: len(shards(database_url)) == 1)
    right = new_app(database_url)
    recorder(right, "right", seconds=4.0)
    calls = recorder(right, "last")
    await nodes.enter_async_context(right.node(views=False))
    await until_even(database_url, 2)
    definition = workflow("w", task("a"), task("b", "a.completed", type="right"), task("c", "b.completed", type="last"))
    await right.register(definition, allow_unknown_types=True)
    runs = [await right.start("w") for _ in range(20)]
    mine = [run for run in runs if not _owned_by(right, run)]
    await until(lambda: all("TaskStarted b 1" in story(database_url, run.run_id) for run in mine))
    owner.kill()
    for run in mine:
        await run.result(timeout=20)
        assert "TaskInterrupted" not in " ".join(story(database_url, run.run_id))
    assert len(calls) >= len(mine)
    assert_kept(database_url, at_rest=False)


async def test_results_of_another_process_are_waited_for_together(database_url: str, nodes: AsyncExitStack) -> None:
    """As many statements as moments at which something ended, and not as many as there are who wait."""
    waiting, working = new_app(database_url), new_app(database_url)
    recorder(working)
    for app in (waiting, working.node(views=False)):
        await nodes.enter_async_context(app)
    await waiting.register(workflow("w", task("a", inputs={"n": "{{n}}"})))
    runs = [await waiting.start("w", {"n": n}) for n in range(60)]
    session, asked = waiting.client._session, list[str]()
    fetch = session.fetch

    async def counted(statement: str, parameters: Any = ()) -> Any:
        asked.append(statement)
        return await fetch(statement, parameters)

    session.fetch = counted  # type: ignore[method-assign]
    results = await asyncio.gather(*(run.result(timeout=10) for run in runs))
    assert [each["a"]["n"] for each in results] == list(range(60))
    assert len(asked) < 60


async def test_one_run_that_cannot_be_read_keeps_nobody_else_from_a_result(
    database_url: str, nodes: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, working = new_app(database_url), new_app(database_url)
    recorder(working)
    for app in (waiting, working.node(views=False)):
        await nodes.enter_async_context(app)
    registry = waiting.client.registry
    for name in ("strange", "sound"):
        await waiting.register(workflow(name, task("a")))
    runs = [await waiting.start(name) for name in ("strange", "sound", "sound")]
    (lost,) = [each.digest for each in await registry.versions() if each.workflow_id == "strange"]
    known = registry.definition

    async def definition(digest: str) -> Any:
        if digest == lost:
            raise KeyError(digest)
        return await known(digest)

    monkeypatch.setattr(registry, "definition", definition)
    strange, *sound = await asyncio.gather(*(run.result(timeout=10) for run in runs), return_exceptions=True)
    assert isinstance(strange, KeyError)
    assert sound == [{"a": {}}] * 2

"""The life of a node: its leases, its death, its clean stop, its timers, seen from outside. Real processes."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import lives
import psycopg
import pytest
from acceptance.checker import assert_kept
from acceptance.forks import Child, ForkServer, fork_server
from applications import ONCE, facts, new_app, shards, story, task, until, workflow

import perdure
from perdure_engine import holder
from perdure_engine.history import Loaded, load_short
from perdure_engine.run import new_run
from perdure_engine.run.commands import StartRun
from perdure_eventstore.door import Json

pytestmark = pytest.mark.every_postgres


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("forks"), "lives") as server:
        yield server


class World:
    """A client, and nodes that are other processes."""

    def __init__(self, forks: ForkServer, url: str, folder: Path) -> None:
        self.forks, self.url, self.file = forks, url, folder / "notes"
        self.file.touch()
        self.app = new_app(url)

    def start_node(self, **settings: Any) -> Child:
        return self.forks.fork(lives.node, url=self.url, notes=str(self.file), settings=settings)

    def notes(self, line: str) -> int:
        """How many lines of the handlers begin like this."""
        return sum(each.startswith(line) for each in self.file.read_text().splitlines())

    async def run(self, definition: dict[str, Any], payload: Any = None) -> perdure.Run:
        await self.app.register(definition, allow_unknown_types=True)
        return await self.app.start(definition["workflow_id"], payload)

    def story(self, run: perdure.Run) -> list[str]:
        return story(self.url, run.run_id)


@pytest.fixture
async def world(forks: ForkServer, database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    world = World(forks, database_url, tmp_path)
    async with world.app:
        yield world
    forks.end_children()


SLOW = workflow("slow", task("a", inputs={"seconds": 30}))
QUICK = workflow("quick", task("a"))


async def test_a_dead_nodes_runs_are_taken_over_and_the_interrupted_attempt_is_recorded(world: World) -> None:
    first = world.start_node()
    run = await world.run(workflow("w", task("a", inputs={"seconds": "{{seconds}}"})), {"seconds": 0.5})
    await until(lambda: world.notes("a 1 begins"))
    first.kill()
    world.start_node()
    await run.result(timeout=10)
    assert world.story(run)[2:] == [
        "TaskStarted a 1", "TaskInterrupted a 1", "TaskScheduled a 2", "TaskStarted a 2", "TaskCompleted a 2",
        "RunCompleted",
    ]  # fmt: skip
    assert facts(world.url, run.run_id, "TaskInterrupted")[0].get("clean", False) is False
    assert_kept(world.url)


async def test_a_run_whose_start_is_repeated_while_it_is_taken_over_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a node that died between a run's start and the note that its event is routed."""
    first = world.start_node()
    run = await world.run(workflow("w", task("a", inputs={"seconds": "{{seconds}}"})), {"seconds": 0.5})
    await until(lambda: world.notes("a 1 begins"))
    first.kill()
    heir = lives.application(world.url, str(world.file))
    repeated = list[asyncio.Task[bool]]()

    async def load_late(reader: Any, registry: Any, runs: Sequence[UUID], snapshots: Any) -> dict[UUID, Loaded]:
        found = await load_short(reader, registry, runs, snapshots)
        if repeated:
            return found
        (run_id,), (known,) = runs, found.values()
        tenure = heir.client.node.tenure if heir.client.node else None
        assert tenure is not None
        start = StartRun(at=tenure.now(), input=Json.of(None))
        repeated.append(asyncio.create_task(tenure.starts.start_run(new_run(known.state.definition, run_id), start)))
        await until(lambda: tenure.holder.is_held(run_id))
        return found

    monkeypatch.setattr(holder, "load_short", load_late)
    async with heir.node(views=False):
        await run.result(timeout=10)
        assert [await task for task in repeated] == [False]
    assert world.story(run)[3:5] == ["TaskInterrupted a 1", "TaskScheduled a 2"]
    assert_kept(world.url)


async def test_a_clean_stop_hands_over_at_once_and_its_attempts_do_not_count(world: World) -> None:
    """Six clean stops, where five deaths would have failed the task, each within a fraction of a long lease."""
    run = await world.run(SLOW)
    for attempt in range(1, 7):
        node = world.start_node(lease=60)
        await until(partial(world.notes, f"a {attempt} begins"), 5)
        node.signal(signal.SIGTERM)
        node.wait(5)
        assert shards(world.url) == {}
    interrupted = facts(world.url, run.run_id, "TaskInterrupted")
    assert [each["clean"] for each in interrupted] == [True] * 6
    assert await run.status() == "open"
    with psycopg.connect(world.url) as connection:
        assert connection.execute("select count(*) from perdure.nodes").fetchone() == (0,)
    assert_kept(world.url)


async def test_a_handler_that_kills_its_node_is_stopped_at_the_fifth_time(world: World) -> None:
    run = await world.run(workflow("w", task("a", type="deadly")))
    for attempt in range(1, 6):
        node = world.start_node(lease=0.5)
        await asyncio.to_thread(node.wait, 10)
        assert world.notes("a ") == attempt
    world.start_node(lease=0.5)
    with pytest.raises(perdure.RunFailed, match="died under it 5 times"):
        await run.result(timeout=10)
    assert world.notes("a ") == 5
    assert_kept(world.url)


async def test_a_node_frozen_past_its_lease_writes_no_history_of_what_it_lost(world: World) -> None:
    frozen = world.start_node(lease=0.5)
    run = await world.run(workflow("w", task("a", inputs={"seconds": 0.4}), task("b", "a.completed")))
    await until(lambda: world.notes("a 1 begins"))
    frozen.signal(signal.SIGSTOP)
    world.start_node(lease=0.5)
    await until(lambda: world.notes("a 2 begins"))
    frozen.signal(signal.SIGCONT)
    result = await run.result(timeout=10)
    assert frozen.pid not in result.values()
    (interrupted,) = facts(world.url, run.run_id, "TaskInterrupted")
    assert not interrupted.get("clean", False)
    # Woken, it found out, forgot everything, and works again under another name.
    await until(lambda: "joining anew" in frozen.output)
    assert_kept(world.url)


async def test_a_node_frozen_before_the_commit_of_an_exactly_once_task_does_not_hold_up_its_heir(world: World) -> None:
    with psycopg.connect(world.url, autocommit=True) as connection:
        connection.execute("create table public.ledger (task text)")
    frozen = world.forks.fork(lives.frozen_before_commit, url=world.url, notes=str(world.file))
    run = await world.run(workflow("w", task("a", type="book")))
    await until(lambda: world.notes("a 1 begins"))
    await asyncio.sleep(0.2)
    world.start_node(lease=0.5)
    await run.result(timeout=20)
    frozen.signal(signal.SIGCONT)
    await until(lambda: "joining anew" in frozen.output)
    with psycopg.connect(world.url) as connection:
        assert connection.execute("select count(*) from public.ledger").fetchone() == (1,)
    assert_kept(world.url)


async def test_two_nodes_share_the_shards_and_the_runs(world: World) -> None:
    first, second = world.start_node(lease=0.5), world.start_node(lease=0.5)
    await until(lambda: sorted(map(len, shards(world.url).values())) == [32, 32], 15)
    runs = [await world.run(QUICK) for _ in range(40)]
    by = Counter([(await run.result(timeout=10))["a"] for run in runs])
    assert set(by) == {first.pid, second.pid}
    assert_kept(world.url)


async def test_shards_are_handed_to_a_newcomer_with_what_runs_in_them(world: World) -> None:
    old = world.start_node(lease=0.5)
    await until(lambda: sorted(map(len, shards(world.url).values())) == [64])
    runs = [
        await world.run(workflow("w", task("a", inputs={"seconds": 2}), task("b", "a.completed"))) for _ in range(8)
    ]
    await until(lambda: world.notes("a 1 begins") == 8)
    new = world.start_node(lease=0.5)
    for run in runs:
        await run.result(timeout=15)
    await until(lambda: sorted(map(len, shards(world.url).values())) == [32, 32], 15)
    assert not old.has_ended()
    assert not new.has_ended()
    assert "joining anew" not in old.output + new.output
    assert_kept(world.url)


async def test_no_run_is_worked_on_by_two_nodes_while_nodes_come_and_go(world: World) -> None:
    definition = workflow("w", *[task(f"t{n}", *([f"t{n - 1}.completed"] if n else [])) for n in range(5)])
    nodes = [world.start_node(lease=0.5)]
    runs = []
    for round_ in range(6):
        runs += [await world.run(definition) for _ in range(10)]
        nodes.append(world.start_node(lease=0.5))
        await asyncio.sleep(0.2)
        leaving = nodes.pop(0)
        leaving.signal(signal.SIGKILL if round_ % 2 else signal.SIGTERM)
    for run in runs:
        await run.result(timeout=20)
    assert_kept(world.url)


async def test_a_retry_survives_the_restart_of_the_node_in_between(world: World) -> None:
    retry = {"attempts": 2, "initial": 1.2, "jitter": 0}
    first = world.start_node(lease=0.5)
    run = await world.run(workflow("w", task("a", type="fail_once", retry=retry)))
    await until(lambda: "TaskFailed a 1" in world.story(run))
    first.kill()
    (failed,) = facts(world.url, run.run_id, "TaskFailed")
    world.start_node(lease=0.5)
    await run.result(timeout=10)
    (started,) = [each for each in facts(world.url, run.run_id, "TaskStarted") if each["attempt"] == 2]
    assert started
    with psycopg.connect(world.url) as connection:
        row = connection.execute(
            "select min(recorded_at) - %s::timestamptz from perdure.events where stream = %s and type = 'TaskStarted'"
            " and data::text like '%%\"attempt\":2%%'", (failed["retry_at"], run.run_id),
        ).fetchone()  # fmt: skip
    assert row is not None
    assert 0 <= row[0].total_seconds() < 1.0
    assert "TaskInterrupted" not in " ".join(world.story(run))
    assert_kept(world.url)


async def test_a_timer_that_fell_due_while_no_node_ran_fires_at_once_and_once(world: World) -> None:
    retry = {"attempts": 2, "initial": 0.3, "jitter": 0}
    first = world.start_node(lease=0.5)
    run = await world.run(workflow("w", task("a", type="fail_once", retry=retry)))
    await until(lambda: "TaskFailed a 1" in world.story(run))
    first.kill()
    await asyncio.sleep(0.8)
    world.start_node(lease=0.5)
    began = time.monotonic()
    await run.result(timeout=10)
    assert time.monotonic() - began < 2.0
    assert world.story(run).count("TaskScheduled a 2") == 1


async def test_a_retry_due_in_ten_minutes_is_a_row_that_outlives_its_node(world: World) -> None:
    first = world.start_node(lease=0.5)
    late, soon = ({"attempts": 2, "initial": seconds, "jitter": 0} for seconds in (600, 0.1))
    run = await world.run(workflow("w", task("a", type="fail_once", retry=late)))
    await until(lambda: "TaskFailed a 1" in world.story(run))
    first.kill()
    second = world.start_node(lease=0.5)
    # A nearer timer of another run does not wait for it, nor it for the nearer one.
    near = await world.run(workflow("v", task("a", type="fail_once", retry=soon)))
    await near.result(timeout=10)
    second.kill()
    assert world.story(run)[-1] == "TaskFailed a 1"
    with psycopg.connect(world.url, autocommit=True) as connection:
        # Ten minutes pass.
        moved = connection.execute("update perdure.timers set due = due - interval '10 minutes' returning timer")
        assert moved.fetchall() == [("retry:a",)]
    world.start_node(lease=0.5)
    await run.result(timeout=10)
    assert_kept(world.url)


async def test_a_node_that_stops_while_its_handlers_ignore_it_stops_all_the_same(world: World) -> None:
    node = world.start_node(lease=0.5)
    run = await world.run(workflow("w", task("a", retry=ONCE, inputs={"seconds": 30})))
    await until(lambda: world.notes("a 1 begins"))
    os.kill(node.pid, signal.SIGTERM)
    await asyncio.to_thread(node.wait, 5)
    assert "TaskInterrupted a 1" in world.story(run)
    assert world.notes("a 1 ends") == 0

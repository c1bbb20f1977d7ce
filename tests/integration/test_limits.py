"""Limits of a type, of a key and of a rate, on one node and over several; who blocks the event loop."""

import asyncio
import time
from collections import Counter, defaultdict
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
import structlog
from acceptance.checker import check, read_history
from applications import new_app, recorder, story, task, tenure_of, until, workflow
from logs import execute, opened, rows
from sqlalchemy import make_url

import perdure
from perdure_engine.errors import TaskTypeRefused
from perdure_engine.identity import shard_of
from perdure_engine.limits import Rates, parse_rate
from perdure_eventstore.session import Session

pytestmark = pytest.mark.every_postgres


class Gauge:
    """How many attempts there are at once, by a name."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.times: defaultdict[str, list[float]] = defaultdict(list)

    async def stay(self, name: str, seconds: float) -> None:
        self.times[name].append(time.monotonic())
        self.now[name] += 1
        self.most[name] = max(self.most[name], self.now[name])
        await asyncio.sleep(seconds)
        self.now[name] -= 1


def gauged(url: str, gauge: Gauge, seconds: float, **options: Any) -> perdure.App:
    app = new_app(url)

    @app.task("work", **options)
    async def work(key: str = "all") -> None:
        await gauge.stay(key, seconds)

    return app


def holders(url: str) -> list[UUID]:
    """The runs that have permits."""
    return [run for (run,) in rows(url, "select run from perdure.permits")]


def wide(tasks: int, **more: Any) -> dict[str, Any]:
    return workflow("wide", *[task(f"t{n}", **more) for n in range(tasks)])


async def test_a_node_executes_no_more_of_a_type_than_its_limit(database_url: str) -> None:
    gauge = Gauge()
    app = gauged(database_url, gauge, 0.05, limit=2)
    others = recorder(app, "other")
    async with app.node(views=False):
        await app.register(workflow("w", *[task(f"t{n}") for n in range(8)], task("x", type="other")))
        run = await app.start("w")
        await until(lambda: len(others) == 1)
        assert not gauge.times["all"][6:], "the other type did not wait for them"
        await run.result(timeout=10)
    assert gauge.most["all"] == 2


async def test_no_more_attempts_of_a_key_at_once_than_its_limit_over_runs_and_nodes(database_url: str) -> None:
    gauge = Gauge()
    one, two = gauged(database_url, gauge, 0.03), gauged(database_url, gauge, 0.03)
    definition = workflow(
        "w",
        task("a", concurrency={"key": "customer {{c}}", "limit": 2}, inputs={"key": "{{c}}"}),
        task("b", "a.completed", concurrency="customer {{c}}", inputs={"key": "{{c}} alone"}),
    )
    async with one.node(views=False), two.node(views=False):
        await one.register(definition)
        runs = [await app.start("w", {"c": "ada" if n % 2 else "bob"}) for n in range(12) for app in (one, two)]
        for run in runs:
            await run.result(timeout=30)
    assert gauge.most["ada"] <= 2 and gauge.most["bob"] <= 2
    assert max(gauge.most.values()) == 2, "it is a limit, and not a lock"
    assert holders(database_url) == []


async def test_a_permit_outlives_a_failure_no_longer_than_a_completion(database_url: str) -> None:
    app = new_app(database_url)

    @app.task("work", retry=perdure.Retry(attempts=2, initial=0.05, jitter=0), timeout=0.2)
    async def work(task: perdure.Task, how: str) -> None:
        if how == "raise":
            raise ValueError("no")
        if how == "hang" and task.attempt == 1:
            await asyncio.sleep(30)

    async with app.node(views=False):
        await app.register(workflow("w", task("a", concurrency="one", inputs={"how": "{{how}}"})))
        runs = [await app.start("w", {"how": how}) for how in ("raise", "hang", "fine", "raise", "fine")]
        for run in runs:
            await asyncio.gather(run.result(timeout=10), return_exceptions=True)
        assert [await run.status() for run in runs] == ["failed", "completed", "completed", "failed", "completed"]
    assert holders(database_url) == []


async def test_a_run_that_is_cancelled_while_it_waits_for_its_key_leaves_no_permit(database_url: str) -> None:
    app = new_app(database_url)
    calls = recorder(app, seconds=0.5)
    async with app.node(views=False):
        await app.register(workflow("w", task("a", concurrency="one")))
        first, second, third = [await app.start("w") for _ in range(3)]
        await until(lambda: len(calls) == 1)
        waiting = second if "TaskStarted a 1" not in story(database_url, second.run_id) else first
        await app.cancel(waiting.run_id)
        with pytest.raises(perdure.RunCancelled):
            await waiting.result(timeout=5)
        for run in (first, second, third):
            await asyncio.gather(run.result(timeout=10), return_exceptions=True)
        assert len(calls) == 2
        await until(lambda: holders(database_url) == [])


async def test_a_dead_nodes_permits_are_its_heirs(database_url: str) -> None:
    dead, heir = new_app(database_url), new_app(database_url)
    recorder(dead, seconds=60), recorder(heir)
    async with dead.node(views=False):
        await dead.register(workflow("w", task("a", concurrency="one")))
        run, other = await dead.start("w"), await dead.start("w")
        await until(lambda: len(holders(database_url)) == 1)
    async with heir.node(views=False):
        await heir.run(run.run_id).result(timeout=10)
        await heir.run(other.run_id).result(timeout=10)
    assert holders(database_url) == []


async def test_a_rate_holds_over_nodes_in_every_window(database_url: str) -> None:
    gauge = Gauge()
    one, two = (gauged(database_url, gauge, 0.0, rate="10/500ms") for _ in range(2))
    async with one.node(views=False), two.node(views=False):
        await one.register(wide(15))
        runs = [await app.start("wide") for app in (one, two)]
        for run in runs:
            await run.result(timeout=20)
    times = sorted(gauge.times["all"])
    assert len(times) == 30
    # What is granted begins a moment later, each a little sooner or later than the other.
    windows = [sum(begin <= each < begin + 0.4 for each in times) for begin in times]
    assert max(windows) <= 10
    assert times[-1] - times[0] < 5, "it is a limit, and not a stop"


def test_of_a_rate_what_counts_no_more_is_not_kept(database_url: str) -> None:
    take = "select granted, wait > 0 from perdure.take_rate('work', 5, 10.0, 4)"
    slices = "select begun from perdure.rates where name = 'work' order by begun"
    execute(
        database_url,
        "insert into perdure.rates select 'work', 10, s, 3 from generate_series(80, 100) s",
    )
    assert rows(database_url, take) == [(4, False)]
    assert rows(database_url, slices) == [(4,)]
    assert rows(database_url, take) == [(1, True)]
    execute(database_url, "update perdure.rates set slice = slice - 11")
    assert rows(database_url, take) == [(4, False)]
    assert rows(database_url, take) == [(1, True)]
    # The next slice takes away what counts no more.
    execute(database_url, "update perdure.rates set slice = slice - 1, begun = 1")
    execute(database_url, "insert into perdure.rates select name, period, slice - 12, 9 from perdure.rates")
    assert rows(database_url, take) == [(4, False)]
    assert rows(database_url, slices) == [(1,), (4,)]


@pytest.mark.parametrize("rate", ["10", "0/s", "ten/s", "10/", "10/fortnight", "1.5/s", "-1/s", "10/0s", 10])
def test_a_rate_that_is_none_is_refused_with_a_sentence(rate: Any) -> None:
    with pytest.raises(ValueError, match='a rate is written like "10/s", "100/m"'):
        parse_rate(rate)
    app = perdure.App("postgresql://nowhere/none")
    with pytest.raises(TaskTypeRefused, match="the rate of work"):
        app.task("work", rate=rate)(lambda: None)


def test_rates_are_read_as_they_are_meant() -> None:
    assert [parse_rate(text) for text in ("10/s", " 100 / m", "5/30s", "1/d")] == [
        (10, 1),
        (100, 60),
        (5, 30),
        (1, 86400),
    ]


async def test_priorities_decide_who_is_next(database_url: str) -> None:
    app = new_app(database_url, concurrency=1)
    calls = recorder(app, seconds=0.05)
    async with app.node(views=False):
        tasks = [task("low", priority=-1), task("a"), task("high", priority=9), task("b")]
        await app.register(workflow("w", task("first"), *tasks))
        await (await app.start("w")).result(timeout=10)
    assert [each.task_id for each in calls.tasks] == ["first", "high", "a", "b", "low"]


async def test_a_handler_that_blocks_the_event_loop_is_named(database_url: str) -> None:
    app = new_app(database_url)

    @app.task("rude")
    async def rude() -> None:
        time.sleep(1.0)

    async with app.node(views=False):
        await app.register(workflow("w", task("a", type="rude")))
        with structlog.testing.capture_logs() as logs:
            await (await app.start("w")).result(timeout=10)
    (warning,) = [each for each in logs if "blocks the event loop" in each["event"]]
    assert (warning["type"], warning["task"]) == ("rude", "a")
    assert "time.sleep(1.0)" in warning["where"]


async def test_a_task_that_is_interrupted_and_begun_again_has_its_permit(database_url: str) -> None:
    app, going_on = new_app(database_url), asyncio.Event()

    @app.task()
    async def work(task: perdure.Task) -> int:
        await (asyncio.sleep(30) if task.attempt == 1 else going_on.wait())
        return task.attempt

    async with app.node(views=False):
        await app.register(workflow("w", task("a", concurrency="{{n}}")))
        runs = [await app.start("w", {"n": n}) for n in range(20)]
        under_way = app.client.node.tenure.attempts  # type: ignore[union-attr]
        await until(lambda: len(under_way) == len(runs))
        for attempt in under_way:
            attempt.work.cancel()
        await until(lambda: all("TaskStarted a 2" in story(database_url, run.run_id) for run in runs))
        assert check(read_history(database_url), at_rest=False) == []
        going_on.set()
        for run in runs:
            assert await run.result(timeout=10) == {"a": 2}
    assert holders(database_url) == []


async def test_a_key_that_has_no_permit_left_holds_up_no_other(database_url: str) -> None:
    gauge = Gauge()
    app = gauged(database_url, gauge, 0.2)
    keyed: dict[str, Any] = {"concurrency": {"key": "{{key}}", "limit": 1}, "inputs": {"key": "{{key}}"}}
    async with app.node(views=False):
        await app.register(wide(600, **keyed))
        await app.register(workflow("one", task("t", **keyed)))
        many = await app.start("wide", {"key": "a"})
        await until(lambda: gauge.times["a"])
        one = await app.start("one", {"key": "b"})
        await one.result(timeout=5)
        assert len(gauge.times["a"]) < 100
        await app.cancel(many.run_id)


async def test_what_waits_for_its_rate_and_is_another_nodes_by_then_takes_no_slot(database_url: str) -> None:
    begun, freed, rate = list[str](), list[str](), parse_rate("1/s")
    async with opened(database_url) as engine:
        session = Session(engine)
        rates = Rates(session, "perdure")
        for name, run in (("gone", UUID(int=1)), ("kept", UUID(int=2))):
            rates.ask("work", rate, run, partial(begun.append, name), partial(freed.append, name), lambda: None)
        rates.forget(lambda run: run == UUID(int=1))
        await rates.grant()
        await session.close()
    assert (begun, freed) == (["kept"], ["gone"])


class Full:
    """Handlers of ``fill``, which keep the slots of a node until ``end`` is set."""

    def __init__(self, app: perdure.App) -> None:
        self.end, self.begun = asyncio.Event(), 0
        app.task("fill")(self.fill)

    async def fill(self) -> None:
        self.begun += 1
        await self.end.wait()

    async def of(self, app: perdure.App, slots: int) -> perdure.Run:
        """The node's ``slots`` are taken."""
        await app.register(workflow("full", *[task(f"t{n}", type="fill") for n in range(slots)]))
        run = await app.start("full")
        await until(lambda: self.begun == slots)
        return run


async def test_a_run_that_is_paused_and_resumed_while_it_waits_does_not_free_its_key(database_url: str) -> None:
    """It has its permit, waits for a slot, and asks anew: its first place is nobody's by then."""
    gauge, app = Gauge(), new_app(database_url, concurrency=2)
    full = Full(app)

    @app.task("work")
    async def work() -> None:
        await gauge.stay("one", 0.3)

    async with app.node(views=False):
        await app.register(workflow("w", task("a", concurrency="one")))
        filling = await full.of(app, 2)
        runs = [await app.start("w") for _ in range(3)]
        await until(lambda: len(holders(database_url)) == 1)
        for _ in range(2):
            for run in runs:
                await app.pause(run.run_id)
            await until(lambda: holders(database_url) == [])
            for run in runs:
                await app.resume(run.run_id)
            await until(lambda: len(holders(database_url)) == 1)
        full.end.set()
        for run in (filling, *runs):
            await run.result(timeout=10)
        slots = tenure_of(app).holder.placement.slots
        assert (slots.free, slots.waiting) == (2, 0)
    assert gauge.most["one"] == 1 and len(gauge.times["one"]) == 3
    assert holders(database_url) == []


async def test_a_run_that_ended_while_it_waited_for_its_key_asks_for_no_permit(database_url: str) -> None:
    app = new_app(database_url, concurrency=1)
    full, calls = Full(app), recorder(app)
    async with app.node(views=False):
        await app.register(workflow("w", task("a", concurrency="one")))
        filling = await full.of(app, 1)
        runs = [await app.start("w") for _ in range(3)]
        await until(lambda: len(holders(database_url)) == 1)
        (first,) = holders(database_url)
        last = await app.start("w")
        for run in [*(run.run_id for run in runs if run.run_id != first), first]:
            await app.cancel(run)
            with pytest.raises(perdure.RunCancelled):
                await app.run(run).result(timeout=5)
        # Those who waited before it have ended: nobody waits for a slot in their place.
        await until(lambda: holders(database_url) == [last.run_id])
        full.end.set()
        await filling.result(timeout=5)
        await last.result(timeout=5)
    assert len(calls) == 1
    assert holders(database_url) == []


async def test_a_permit_that_outlived_its_run_is_swept_and_that_of_a_run_that_only_starts_is_not(
    database_url: str,
) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        await app.register(workflow("w", task("a")))
        ended = (await app.start("w")).run_id
        await app.run(ended).result(timeout=5)
        starting = UUID(int=7)
        for run in (ended, starting):
            execute(database_url, f"insert into perdure.permits (key, run, task_id) values ('one', '{run}', 'a')")
        (fault,) = (await app.doctor()).faults
        assert fault.where == {"key": "one", "run": ended, "task_id": "a"}
        assert await tenure_of(app).permits.sweep() == 1
        assert (await app.doctor()).faults == []
    assert holders(database_url) == [starting]


async def test_a_permit_is_not_given_back_for_a_run_of_another_node(database_url: str) -> None:
    app, run = new_app(database_url), UUID(int=7)
    execute(database_url, f"insert into perdure.permits (key, run, task_id) values ('one', '{run}', 'a')")
    async with app.node(views=False):
        permits = tenure_of(app).permits
        execute(database_url, f"update perdure.shards set node = null where shard = {shard_of(run)}")
        permits.give_back(run, "a")
        await permits.grant()
        assert holders(database_url) == [run]
        permits.give_back(run, "a")
        permits.forget(lambda each: each == run)
        execute(database_url, f"update perdure.shards set node = '{tenure_of(app).node_id}' where node is null")
        await permits.grant()
        assert holders(database_url) == [run]
        permits.give_back(run, "a")
        await permits.grant()
    assert holders(database_url) == []


async def test_after_another_server_has_taken_over_every_permit_counts(database_url: str) -> None:
    app, granted = new_app(database_url), list[int]()
    async with app.node(views=False):
        permits = tenure_of(app).permits
        permits.ask("one", 1, UUID(int=1), "a", partial(granted.append, 1), lambda: True)
        await until(lambda: granted == [1])
        execute(database_url, "delete from perdure.permits")
        permits._bounds["one"]._above = 10**6
        # As on a standby that knew less: numbers that were drawn before are drawn again.
        execute(database_url, "insert into perdure.permits (key, run, task_id) select 'one', gen_random_uuid(), 'a'")
        await permits._session.close()
        permits.ask("one", 1, UUID(int=9), "a", partial(granted.append, 9), lambda: True)
        await asyncio.sleep(0.6)
        assert granted == [1]
        execute(database_url, "delete from perdure.permits")
        await until(lambda: granted == [1, 9])


async def test_a_rate_holds_where_there_are_few_slots_and_much_waits(database_url: str) -> None:
    """What had leave and waited for a slot would begin at a time that nobody counts."""
    gauge, slow = Gauge(), asyncio.Event()
    app = new_app(database_url, concurrency=3)

    @app.task("work", rate="10/500ms", limit=2)
    async def work() -> None:
        await gauge.stay("all", 0.0)
        await slow.wait()

    others = recorder(app, "other", seconds=0.01)
    async with app.node(views=False):
        await app.register(wide(60))
        await app.register(workflow("other", *[task(f"t{n}", type="other") for n in range(50)]))
        run = await app.start("wide")
        await until(lambda: len(gauge.times["all"]) == 2)
        # Many times the period, in which leave could be given to all who wait.
        await asyncio.sleep(3.5)
        slow.set()
        other = await app.start("other")
        await run.result(timeout=20)
        await other.result(timeout=20)
        slots = tenure_of(app).holder.placement.slots
        assert (slots.free, slots.waiting) == (3, 0)
    times = sorted(gauge.times["all"])
    assert (len(times), len(others)) == (60, 50)
    assert max(sum(begin <= each < begin + 0.4 for each in times) for begin in times) <= 10
    assert times[-1] - times[2] < 8, "it is a limit, and not a stop"


def test_nodes_that_count_by_different_periods_leave_each_others_counts(database_url: str) -> None:
    assert rows(database_url, "select granted from perdure.take_rate('work', 100, 60.0, 100)") == [(100,)]
    assert rows(database_url, "select granted from perdure.take_rate('work', 10, 0.1, 1)") == [(1,)]
    assert rows(database_url, "select granted from perdure.take_rate('work', 100, 60.0, 100)") == [(0,)]


async def test_limits_hold_where_transactions_read_repeatably_by_default(database_url: str) -> None:
    name = make_url(database_url).database
    execute(database_url, f'alter database "{name}" set default_transaction_isolation = "repeatable read"')
    take = "select granted from perdure.take_rate('work', 10, 60.0, 7)"
    async with opened(database_url) as engine:
        session = Session(engine)
        with psycopg.connect(database_url) as other:
            other.execute(take)
            # It waits for the other, and counts what that took.
            waiting = asyncio.create_task(session.fetch(take))
            await asyncio.sleep(0.3)
        assert await waiting == [(3,)]
        await session.close()

"""The doctor beside nodes at work: it finds nothing where nothing is wrong, and they go on with what it rebuilds."""

import asyncio
import random
from uuid import UUID

import pytest
from acceptance.checker import assert_kept
from applications import story, task, until, workflow
from doctoring import FORKED, HASTY, KEYED, QUICK, SIMPLE, STUMBLING, WAITING, app_of, working_set
from logs import execute, rows

import perdure
from perdure_engine.facts import EventRouted, Match, encode_fact
from perdure_engine.identity import shard_of
from perdure_eventstore.append import Append
from perdure_eventstore.events import Head

pytestmark = pytest.mark.every_postgres


async def test_an_event_that_was_lost_on_its_way_to_a_run_is_found_and_delivered_again(database_url: str) -> None:
    async with app_of(database_url) as app:
        await app.register(WAITING)
        run = (await app.start("waiting")).run_id
        event = await delivered(app, database_url, run)
        assert (await app.doctor()).faults == []
        execute(database_url, "delete from perdure.inbox")
        (fault,) = (await app.doctor()).faults
        assert (fault.table, fault.where) == ("inbox", {"run": run, "event": event})
        assert (await app.doctor(repair=True)).left == []
        assert rows(database_url, "select event from perdure.inbox where kind = 'event'") == [(event,)]
        async with app_of(database_url).node(views=False):
            await until(lambda: not rows(database_url, "select from perdure.inbox"))
            await until(lambda: rows(database_url, "select from perdure.events where type = 'EventLatched'"))
        assert (await app.doctor()).faults == []


async def delivered(app: perdure.App, url: str, run: UUID) -> UUID:
    """Publish, and record what a router would: it lies in the run's inbox, and no node is there to take it."""
    published = await app.publish("answered")
    row = {"run": run, "shard": shard_of(run), "kind": "event", "event": published.event_id}
    fact = EventRouted(matches=(Match("waiting", "delivered", run),))
    ((version, hash_),) = rows(url, "select version, hash from perdure.events where stream = %s", (published.event_id,))
    routed = Append(published.event_id, Head(version, hash_), [encode_fact(fact)], {"inbox": [row]})
    await app.client.appender.append(routed)
    return published.event_id


async def test_a_working_set_that_is_lost_altogether_is_rebuilt_and_the_runs_end(database_url: str) -> None:
    async with app_of(database_url) as app:
        await app.register(WAITING)
        await app.register(KEYED)
        async with app_of(database_url).node(views=False):
            published = [await app.publish("asked") for _ in range(5)]
            published += [await app.publish("opened", {"account": f"a{n}"}) for n in range(5)]
            runs = [run for each in published for run in await each.runs()]
            await until(lambda: len(rows(database_url, "select from perdure.waits")) == 15)
        healthy = working_set(database_url)
        execute(database_url, "truncate perdure.open_runs, perdure.timers, perdure.waits, perdure.definitions")
        execute(database_url, "truncate perdure.router, perdure.shards, perdure.inbox, perdure.assignments")
        diagnosis = await app.doctor(repair=True)
        assert diagnosis.left == []
        assert len(diagnosis.faults) == 2 + 10 + 5 + 15 + 1 + 64
        assert working_set(database_url) | {"router": []} == healthy | {"router": []}
        async with app_of(database_url).node(views=False):
            await app.publish("answered")
            await app.publish("allowed")
            for n in range(5):
                await app.publish("closed", {"account": f"a{n}"})
            for run in runs:
                await run.result(timeout=20)
        assert (await app.doctor()).faults == []
    assert_kept(database_url)


async def test_nodes_at_work_are_never_found_at_fault(database_url: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    looks = 0
    async with app_of(database_url).node(views=False) as app, app_of(database_url).node(views=False):
        for document in (SIMPLE, WAITING, KEYED, HASTY, QUICK, STUMBLING):
            await app.register(document)
        work = asyncio.create_task(load(app, dice, 250))
        while not work.done():
            diagnosis = await app.doctor(repair=looks % 5 == 4)
            assert diagnosis.faults == [], [*map(str, diagnosis.faults)]
            looks += 1
        await work
        await until(lambda: not rows(database_url, "select from perdure.inbox"))
        assert (await app.doctor()).faults == []
    print(f"{looks} looks")
    assert looks > 10
    assert_kept(database_url, at_rest=False)


async def load(app: perdure.App, dice: random.Random, events: int) -> None:
    """Events of every kind at random, and cancels."""
    runs: list[perdure.Run] = []
    for _ in range(events):
        name = dice.choice(
            ["begun", "asked", "answered", "allowed", "opened", "closed", "hurried", "quick", "stumbled"]
        )
        published = await app.publish(name, {"account": f"a{dice.randrange(5)}"})
        if dice.random() < 0.2:
            runs += await published.runs()
        if runs and dice.random() < 0.1:
            await app.cancel(dice.choice(runs).run_id)
        await asyncio.sleep(dice.random() * 0.02)


async def test_a_node_at_work_goes_on_with_what_is_rebuilt_beside_it(database_url: str) -> None:
    async with app_of(database_url).node(views=False) as app:
        await app.register(WAITING)
        await app.register(QUICK)
        runs = [await app.start("waiting") for _ in range(20)]
        await until(lambda: len(rows(database_url, "select from perdure.waits")) == 40)
        publishing = asyncio.create_task(_publish_endlessly(app))
        execute(
            database_url, "delete from perdure.waits", "delete from perdure.timers", "delete from perdure.open_runs"
        )
        diagnosis = await app.doctor(repair=True)
        assert len(diagnosis.faults) >= 80
        assert diagnosis.left == []
        publishing.cancel()
        await app.publish("answered")
        await app.publish("allowed")
        for run in runs:
            await run.result(timeout=20)
        assert (await app.doctor()).faults == []
    assert_kept(database_url, at_rest=False)


async def test_an_event_that_the_router_passed_over_is_routed_once_it_was_set_back(database_url: str) -> None:
    async with app_of(database_url) as app:
        await app.register(QUICK)
        passed_over = await app.publish("quick")
        execute(database_url, "update perdure.router set position = (select max(position) from perdure.events)")
        async with app_of(database_url).node(views=False):
            await (await app.publish("quick")).runs(timeout=10)
            assert [fault.table for fault in (await app.doctor(repair=True)).faults] == ["router"]
            await app.publish("quick")
            (run,) = await passed_over.runs(timeout=10)
            await run.result(timeout=10)
            assert (await app.doctor()).faults == []


async def test_a_timer_that_a_paused_run_set_is_held_and_no_fault(database_url: str) -> None:
    """Its attempt was under way as it was paused, and failed: were the next one's timer let go, it would be lost."""
    app, fails = app_of(database_url), asyncio.Event()

    @app.task()
    async def failing(task: perdure.Task) -> int:
        if task.attempt == 1:
            await fails.wait()
            raise RuntimeError("once")
        return task.attempt

    async with app.node(views=False):
        await app.register(workflow("w", task("a", type="failing", retry={"attempts": 2, "initial": 0.1, "jitter": 0})))
        run = await app.start("w")
        await until(lambda: "TaskStarted a 1" in story(database_url, run.run_id))
        await app.pause(run.run_id)
        await until(lambda: "RunPaused" in " ".join(story(database_url, run.run_id)))
        fails.set()
        await until(lambda: rows(database_url, "select timer, held from perdure.timers") == [("retry:a", True)])
        assert (await app.doctor(repair=True)).faults == []
        await asyncio.sleep(0.3)
        await app.resume(run.run_id)
        assert await run.result(timeout=10) == {"a": 2}


async def test_two_open_runs_with_one_key_are_named(database_url: str) -> None:
    async with app_of(database_url).node(views=False) as app:
        await app.register(KEYED)
        (first,) = await (await app.publish("opened", {"account": "a"})).runs(timeout=10)
        execute(database_url, "delete from perdure.open_runs")
        (second,) = await (await app.publish("opened", {"account": "a"})).runs(timeout=10)
        assert first.run_id != second.run_id
        (left,) = (await app.doctor(repair=True)).left
        assert left.where == {"run": first.run_id}
        assert str(left).endswith(f"run {second.run_id} is open with the same key: cancel one of the two")
        await app.cancel(second.run_id)
        await until(lambda: not rows(database_url, "select from perdure.open_runs"))
        assert (await app.doctor(repair=True)).left == []
        await app.publish("closed", {"account": "a"})
        await first.result(timeout=10)
        assert (await app.doctor()).faults == []


async def test_whatever_is_lost_under_load_is_rebuilt_each_time(database_url: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    rebuilt = 0
    async with app_of(database_url).node(views=False) as app:
        for document in (SIMPLE, WAITING, HASTY, QUICK, STUMBLING):
            await app.register(document)
        work = asyncio.create_task(load(app, dice, 200))
        while not work.done():
            table = dice.choice(["open_runs", "timers", "waits"])
            execute(database_url, f"delete from perdure.{table} where random() < 0.3")
            diagnosis = await app.doctor(repair=True)
            assert diagnosis.left == []
            rebuilt += len(diagnosis.faults)
            await asyncio.sleep(dice.random() * 0.1)
        await work
        await until(lambda: not rows(database_url, "select from perdure.inbox where kind = 'event'"))
        assert (await app.doctor()).faults == []
    print(f"{rebuilt} rows rebuilt")
    assert rebuilt > 5


async def _publish_endlessly(app: perdure.App) -> None:
    while True:
        await app.publish("quick")


async def test_a_timer_that_fired_and_made_no_difference_is_not_missed(database_url: str) -> None:
    async with app_of(database_url).node(views=False) as app:
        await app.register(FORKED)
        run = await app.start("forked")
        # Its other trigger was first: the wait's time runs out, and nobody asks for it any more.
        await app.publish("hither", run=run.run_id)
        await until(lambda: "TaskCompleted either 1" in story(database_url, run.run_id))
        assert rows(database_url, "select from perdure.timers")
        await until(lambda: not rows(database_url, "select from perdure.timers"))
        assert (await app.doctor()).faults == []
        await app.publish("onward")
        await run.result(timeout=10)

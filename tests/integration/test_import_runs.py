"""Imported runs are as if they had happened here: the open go on, the ended are shown, and nothing is done twice."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from applications import new_app, task, until, workflow
from logs import execute, opened, rows, tamper
from sqlalchemy.ext.asyncio import AsyncEngine
from transfers import LOG, another_log, content, exported, url_of

import perdure
from perdure_engine.identity import workflow_stream
from perdure_engine.imported import ImportedWork
from perdure_eventstore.database import raw_connection
from perdure_eventstore.transfer.entry import TransferRefused
from perdure_eventstore.transfer.frame import Selection
from perdure_eventstore.transfer.importing import Imported, import_file
from perdure_eventstore.verify import verify

pytestmark = pytest.mark.every_postgres

SIMPLE = workflow("simple", task("only", "begun"), deadline="1d")
RETRIED = workflow(
    "retried", task("shaky", "tried", type="shaky", retry={"attempts": 5, "initial": 1.5, "jitter": 0}),
    task("after", "shaky.completed"),
)  # fmt: skip
WAITING = workflow(
    "waiting", task("first", "asked"), task("second", {"event": "answered", "within": "1h"}), start=["asked"],
)  # fmt: skip
REQUESTED = workflow(
    "requested", task("first", "wanted"), task("it", {"event": "allowed", "within": "1h"}), start=["wanted"],
)  # fmt: skip
KEYED = workflow("keyed", task("one", "opened"), task("two", "closed"), key="{{account}}", start=["opened"])
WORK = ("definitions", "open_runs", "timers", "waits")


def working_set(url: str) -> dict[str, list[Any]]:
    """Its rows; of positions, the events that stand there."""
    at = "(select e.id from perdure.events e where e.position = {})"
    columns = {
        "definitions": f"workflow_id, number, digest, document, events, keyed, {at.format('registered_at')}, "
        f"{at.format('retired_at')}",
        "open_runs": f"run, shard, workflow_id, key, {at.format('started_at')}",
        "timers": "run, timer, shard, due",
        "waits": f"run, trigger, event, key, {at.format('armed_at')}",
    }
    found = {table: rows(url, f"select {columns[table]} from perdure.{table} t") for table in WORK}
    return {table: sorted(map(repr, there)) for table, there in found.items()}


@asynccontextmanager
async def application(url: str, *, fails: bool = False) -> AsyncIterator[perdure.App]:
    """A node, whose task of type ``shaky`` fails while it ``fails``."""
    app = new_app(url)

    @app.task()
    async def work(task: perdure.Task) -> str:
        return task.task_id

    @app.task()
    async def shaky(task: perdure.Task) -> str:
        if fails:
            raise RuntimeError("it fails here")
        return "at last"

    async with app.node():
        yield app


async def one_run(app: perdure.App, event: str, payload: Any, key: str | None = None) -> Any:
    published = await app.publish(event, payload, key=key)
    (run,) = await published.runs()
    return run


@pytest.fixture
async def source(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A log with ended runs, one whose retry is due soon, one that waits, keyed ones, and definitions that came and
    went."""
    async with application(database_url, fails=True) as app:
        for definition in (SIMPLE, RETRIED, WAITING, REQUESTED, KEYED):
            await app.register(definition)
        for number in range(3):
            run = await one_run(app, "begun", {"n": number})
            await run.result(timeout=10)
        await app.retire("simple")
        await app.register(workflow("simple", task("other", "begun")))
        await app.retire("simple")
        for _ in range(2):
            run = await one_run(app, "opened", {"account": "a"})
            await app.publish("closed", {"account": "a"})
            await run.result(timeout=10)
        await one_run(app, "opened", {"account": "a"})
        await one_run(app, "asked", {"for": 1.5})
        # Its waits count from where it was asked for.
        execute(database_url, "select perdure.start('requested', '{}')")
        await one_run(app, "tried", None)
        await until(lambda: rows(database_url, "select from perdure.timers where timer = 'retry:shaky'"))
        await until(lambda: len(rows(database_url, "select from perdure.events where type = 'TaskCompleted'")) == 10)
        await until(lambda: len(rows(database_url, "select from perdure.open_runs")) == 4)
    async with opened(database_url) as engine:
        yield engine


@pytest.fixture
async def target(source: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    async with another_log(url_of(source)) as engine:
        yield engine


async def move(source: AsyncEngine, target: AsyncEngine, selection: Selection | None = None) -> Imported:
    text, _ = await exported(source, selection=selection or Selection())
    return await import_file(target, io.BytesIO(text), ImportedWork())


async def test_the_working_set_is_what_it_was(source: AsyncEngine, target: AsyncEngine) -> None:
    await move(source, target)
    assert working_set(url_of(target)) == working_set(url_of(source))
    assert all(working_set(url_of(target)).values())
    assert content(url_of(target)) == content(url_of(source))


@pytest.mark.parametrize("size", [1, 7])
async def test_it_is_the_same_wherever_batches_end(
    source: AsyncEngine, target: AsyncEngine, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure_eventstore.transfer.importing.MAX_EVENTS", size)
    await move(source, target)
    assert working_set(url_of(target)) == working_set(url_of(source))


async def test_open_runs_go_on_to_their_end(source: AsyncEngine, target: AsyncEngine) -> None:
    await move(source, target)
    runs = {name: run for run, name in rows(url_of(target), "select run, workflow_id from perdure.open_runs")}
    assert set(runs) == {"retried", "waiting", "requested", "keyed"}
    routed = rows(url_of(target), "select count(*) from perdure.events where type = 'EventRouted'")
    async with application(url_of(target)) as app:
        assert (await app.run(runs["retried"]).result(timeout=15))["shaky"] == "at last"
        await app.publish("answered", None)
        await app.run(runs["waiting"]).result(timeout=15)
        await app.publish("closed", {"account": "a"})
        await app.run(runs["keyed"]).result(timeout=15)
        await app.publish("allowed", None)
        await app.run(runs["requested"]).result(timeout=15)
    # Of what was imported nothing was routed again: the three events published here are all that is new.
    again = rows(url_of(target), "select count(*) from perdure.events where type = 'EventRouted'")
    assert again[0][0] == routed[0][0] + 3
    assert rows(url_of(target), "select from perdure.open_runs") == []
    async with raw_connection(target) as connection:
        assert [progress async for progress in verify(connection)][-1].fault is None


async def test_a_node_that_is_running_takes_them_up_at_once(source: AsyncEngine, target: AsyncEngine) -> None:
    async with application(url_of(target)) as app:
        await move(source, target)
        ((run,),) = rows(url_of(target), "select run from perdure.open_runs where workflow_id = 'retried'")
        assert (await app.run(run).result(timeout=15))["shaky"] == "at last"


async def test_what_was_routed_there_starts_nothing_of_a_running_nodes_own(
    source: AsyncEngine, target: AsyncEngine
) -> None:
    async with application(url_of(target)) as app:
        await app.register(workflow("own", task("mine", "begun")))
        await move(source, target)
        # What comes after them is routed after them.
        met = await app.publish("begun", {})
        (run,) = await met.runs(timeout=10)
        await run.result(timeout=10)
    started = "select distinct stream from perdure.events where type = 'RunStarted' and data->>'workflow_id' = 'own'"
    assert [stream for (stream,) in rows(url_of(target), started)] == [run.run_id]


async def test_importing_again_opens_nothing_that_has_ended(source: AsyncEngine, target: AsyncEngine) -> None:
    await move(source, target)
    ((run,),) = rows(url_of(target), "select run from perdure.open_runs where workflow_id = 'retried'")
    async with application(url_of(target)) as app:
        await app.run(run).result(timeout=15)
    before = working_set(url_of(target))
    assert (await move(source, target)).events == 0
    assert working_set(url_of(target)) == before
    assert rows(url_of(target), "select from perdure.inbox") == []


async def test_a_published_event_that_nobody_had_routed_is_routed_here(
    source: AsyncEngine, target: AsyncEngine
) -> None:
    async with new_app(url_of(source)) as client:
        await client.publish("asked", {"n": 2})
    await move(source, target)
    async with application(url_of(target)):
        await until(
            lambda: len(rows(url_of(target), "select from perdure.open_runs where workflow_id = 'waiting'")) == 2
        )


async def test_what_was_on_its_way_to_a_run_reaches_it_here(source: AsyncEngine, target: AsyncEngine) -> None:
    """It was routed, and the run's node died before the run had decided on it."""
    ((run, shard),) = rows(url_of(source), "select run, shard from perdure.open_runs where workflow_id = 'waiting'")
    async with application(url_of(source), fails=True) as app:
        published = await app.publish("answered", {"n": 1})
        await published.runs()
        await until(lambda: not rows(url_of(source), f"select from perdure.open_runs where run = '{run}'"))
    ((latched,),) = rows(
        url_of(source), f"select position from perdure.events where stream = '{run}' and type = 'EventLatched'"
    )
    ((decided,),) = rows(
        url_of(source), f"select min(position) from perdure.events where stream = '{run}' and position >= {latched}"
    )
    assert decided == latched
    await move(source, target, Selection(last=latched - 1))
    assert rows(url_of(target), "select run, shard, event from perdure.inbox where kind = 'event'") == [
        (run, shard, published.event_id)
    ]
    async with application(url_of(target)) as app:
        await app.run(run).result(timeout=15)


async def test_an_open_run_without_its_definition_is_refused(source: AsyncEngine, target: AsyncEngine) -> None:
    ((run,),) = rows(url_of(source), "select run from perdure.open_runs where workflow_id = 'waiting'")
    with pytest.raises(TransferRefused, match=f"run {run} has not ended, and its definition"):
        await move(source, target, Selection(streams=(run,)))
    assert content(url_of(target)) == []
    await move(source, target, Selection(streams=(run, workflow_stream("waiting"))))
    assert rows(url_of(target), "select run from perdure.open_runs") == [(run,)]


async def test_an_open_run_whose_key_cannot_be_read_is_refused(source: AsyncEngine, target: AsyncEngine) -> None:
    tamper(
        url_of(source),
        "update perdure.events set payload = null, payload_salt = null where type = 'RunStarted' "
        "and data ->> 'workflow_id' = 'keyed'",
    )
    with pytest.raises(TransferRefused, match="has not ended, and its key cannot be read"):
        await move(source, target)
    assert content(url_of(target)) == []


async def test_an_ended_run_is_imported_alone(source: AsyncEngine, target: AsyncEngine) -> None:
    ((run,),) = rows(url_of(source), "select stream from perdure.events where type = 'RunCompleted' limit 1")
    text, said = await exported(source, "cloudevents", Selection(streams=(run,)))
    assert await import_file(target, io.BytesIO(text), ImportedWork()) == Imported(LOG, said.events, 1, 0)
    assert {table: there for table, there in working_set(url_of(target)).items() if there} == {}


async def test_a_run_whose_key_is_taken_here_is_refused(source: AsyncEngine, target: AsyncEngine) -> None:
    async with application(url_of(target)) as app:
        await app.register({**KEYED, "workflow_id": "keyed"})
        await one_run(app, "opened", {"account": "a"})
    ((run,),) = rows(url_of(source), "select run from perdure.open_runs where workflow_id = 'keyed'")
    before = content(url_of(target))
    with pytest.raises(TransferRefused, match="open_runs_key"):
        await move(source, target, Selection(streams=(run,)))
    assert content(url_of(target)) == before

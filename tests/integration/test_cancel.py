"""Cancel, and runs that are asked for in SQL: what a node makes of them, and what it says of those it cannot."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import structlog
from applications import new_app, recorder, story, task, until, workflow
from command_line import perdure as command
from logs import rows

import perdure
from perdure_engine.facts import EventRouted
from perdure_engine.history import UnknownRun
from perdure_engine.identity import start_stream

pytestmark = pytest.mark.every_postgres

ONE = workflow("one", task("a", "began", inputs={"n": "{{n}}"}))
TWO_ENTRIES = workflow("two", task("a", "began"), task("b", "ended"))
KEYED = workflow(
    "keyed",
    task("a", "began"),
    task("b", {"all": ["a.completed", {"event": "came", "within": "1h"}]}),
    key="{{event.payload.id}}",
)
WAITS = workflow("waits", task("a", "began"), task("b", {"all": ["a.completed", {"event": "came", "within": "1h"}]}))


def ask(url: str, *statements: str) -> list[Any]:
    """One transaction in SQL, and what each statement returned."""
    with psycopg.connect(url) as connection:
        return [row[0] for sql in statements if (row := connection.execute(sql.encode()).fetchone())]


async def until_empty(url: str) -> None:
    await until(lambda: rows(url, "select count(*) from perdure.inbox") == [(0,)])


async def test_a_cancelled_run_stops_its_handlers_and_ends_cancelled(database_url: str) -> None:
    app = new_app(database_url)
    calls = recorder(app, seconds=60)
    async with app.node(views=False):
        await app.register(ONE)
        run = await app.start("one", {"n": 1})
        await until(lambda: len(calls) == 1)
        await app.cancel(run.run_id, "a change of mind")
        with pytest.raises(perdure.RunCancelled, match="was cancelled: a change of mind"):
            await run.result(timeout=10)
        await until_empty(database_url)
    assert story(database_url, run.run_id)[-3:] == ["RunStopping", "TaskCancelled a 1", "RunCancelled"]


async def test_a_run_that_is_cancelled_for_no_reason_says_no_reason(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app, seconds=60)
    async with app.node(views=False):
        await app.register(workflow("pair", task("a", "began"), task("b", "a.completed")))
        run = await app.start("pair", {"n": 1})
        await app.cancel(run.run_id)
        with pytest.raises(perdure.RunCancelled, match=r"was cancelled$"):
            await run.result(timeout=10)
    (skipped,) = rows(database_url, "select data->>'reason' from perdure.events where type = 'TaskSkipped'")
    assert skipped == ("the run is stopping",)


async def test_a_waiting_run_is_cancelled_and_an_ended_one_is_left_as_it_is(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        await app.register(WAITS)
        await app.register(ONE)
        waiting, ended = await app.start("waits"), await app.start("one", {"n": 1})
        await ended.result(timeout=10)
        await until(lambda: "TaskCompleted a 1" in story(database_url, waiting.run_id))
        before = story(database_url, ended.run_id)
        for run in (waiting, ended, waiting):
            await app.cancel(run.run_id)
        with pytest.raises(perdure.RunCancelled):
            await waiting.result(timeout=10)
        await until_empty(database_url)
        assert story(database_url, ended.run_id) == before
        assert story(database_url, waiting.run_id).count("RunCancelled") == 1


async def test_what_is_no_run_cannot_be_cancelled(database_url: str) -> None:
    app = new_app(database_url)
    async with app.node(views=False):
        published = await app.publish("unheard_of")
        for strange in (uuid4(), published.event_id):
            with pytest.raises(UnknownRun):
                await app.cancel(strange)
        ask(database_url, f"select perdure.command('{uuid4()}', 'cancel')")
        await until_empty(database_url)


async def test_cancels_reach_the_runs_of_the_node_that_has_them(database_url: str) -> None:
    one, two = new_app(database_url), new_app(database_url)
    recorder(one, seconds=60), recorder(two, seconds=60)
    async with one.node(views=False), two.node(views=False):
        await one.register(ONE)
        runs = [await one.start("one", {"n": n}) for n in range(20)]
        for run in runs:
            await two.cancel(run.run_id)
        for run in runs:
            with pytest.raises(perdure.RunCancelled):
                await run.result(timeout=10)


def test_the_command_line_and_the_blocking_client_cancel_too(database_url: str, tmp_path: Path) -> None:
    with new_app(database_url).blocking() as client:
        client.register(ONE, allow_unknown_types=True)
        run = client.start("one", {"n": 1})
        client.cancel(run.run_id, "first")
        with pytest.raises(UnknownRun):
            client.cancel(uuid4())
        done = command(tmp_path, "cancel", str(run.run_id), "--reason", "second", "--json", "--database", database_url)
        assert (done.status, done.lines) == (0, [{"run_id": str(run.run_id), "command": "cancel"}])
        assert "no node is running" in done.err
        wrong = command(tmp_path, "cancel", str(uuid4()), "--database", database_url)
        assert wrong.status == 2 and "there is no run" in wrong.err
    found = rows(database_url, "select detail ->> 'reason' from perdure.inbox where kind = 'cancel' order by id")
    assert found == [("first",), ("second",)]


async def test_a_run_asked_for_in_sql_runs_as_one_started_in_python(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        await app.register(ONE)
        (run,) = ask(database_url, """select perdure.start('one', '{"n": 1.50}')""")
        assert await app.run(run).result(timeout=10) == {"a": {"n": 1.5}}
        assert (await app.start("one", perdure.Json(b'{"n": 1.50}'), run_id=run)).run_id == run
        ask(database_url, f"""select perdure.start('one', '{{"n": 1.50}}', run => '{run}')""")
        started = await app.start("one", {"n": 2}, run_id=uuid4())
        ask(database_url, f"""select perdure.start('one', '{{"n":2}}', run => '{started.run_id}')""")
        routed = await app.client.routed(start_stream(started.run_id), 10)
        assert [(match.outcome, match.run) for match in routed.matches] == [("started", started.run_id)]
    assert story(database_url, run).count("RunStarted a 1") + story(database_url, run).count("RunStarted") == 1
    assert rows(database_url, "select count(*) from perdure.events where type = 'RunStarted'") == [(2,)]


async def test_result_waits_for_a_run_that_no_node_has_started_yet(database_url: str) -> None:
    app, client = new_app(database_url), new_app(database_url)
    recorder(app)
    async with client:
        await client.register(ONE, allow_unknown_types=True)
        (run,) = ask(database_url, """select perdure.start('one', '{"n": 1}')""")
        with pytest.raises(UnknownRun, match="it was asked for, and a node has yet to start it"):
            await client.run(run).status()
        waiting = asyncio.create_task(client.run(run).result(timeout=20))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        async with app.node(views=False):
            assert await waiting == {"a": {"n": 1}}


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("select perdure.start('unheard_of')", "there is no active workflow 'unheard_of'; there are keyed, one, two"),
        ("select perdure.start('retired')", "there is no active workflow 'retired'"),
        ("select perdure.start('two')", "two has several entries: say event= one of began, ended"),
        ("select perdure.start('two', event => 'came')", "'came' is no entry of two; its entries are began, ended"),
        ("select perdure.start('keyed')", "keyed keeps one open run a key: say key="),
        ("select perdure.start('keyed', key => 'taken')", "a run of keyed with the key 'taken' is open"),
        ("select perdure.start('one', run => '{event}')", "is no run, but the id of something else"),
        ("select perdure.start('one', '{{\"n\": 2}}', run => '{run}')", "was started before with another input"),
    ],
)
async def test_why_a_run_is_not_started_is_recorded_and_said(database_url: str, statement: str, why: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        for definition in (ONE, TWO_ENTRIES, KEYED, {**ONE, "workflow_id": "retired"}):
            await app.register(definition)
        await app.retire("retired")
        await app.start("keyed", {"id": 1}, key="taken")
        event, started = await app.publish("unheard_of"), await app.start("one", {"n": 1})
        with structlog.testing.capture_logs() as logs:
            (run,) = ask(database_url, statement.format(event=event.event_id, run=started.run_id))
            routed: EventRouted = await app.client.routed(start_stream(run), 10)
        (match,) = routed.matches
        assert match.outcome == "ignored" and why in match.reason
        assert [each["why"] for each in logs if each["log_level"] == "warning" and "why" in each] == [match.reason]
        if run not in (event.event_id, started.run_id):
            with pytest.raises(UnknownRun, match=r"there is no run .*: "):
                await asyncio.wait_for(app.run(run).result(), 5)


async def test_what_is_asked_for_meets_definitions_and_events_in_the_order_of_the_log(database_url: str) -> None:
    """All of it is there before a node looks."""
    app, client = new_app(database_url), new_app(database_url)
    recorder(app)
    async with client:
        before = ask(database_url, "select perdure.start('waits')")[0]
        await client.register(WAITS, allow_unknown_types=True)
        await client.register(KEYED, allow_unknown_types=True)
        run: UUID = uuid4()
        ask(
            database_url,
            f"select perdure.start('waits', run => '{run}')",
            f"select perdure.publish('came', run => '{run}')",
        )
        keyed, second, cancelled = ask(
            database_url,
            "select perdure.start('keyed', key => 'k')",
            "select perdure.start('keyed', key => 'k')",
            "select perdure.start('waits')",
        )
        ask(database_url, """select perdure.publish('came', '{"id": "k"}')""")
        await client.retire("waits")
        after = ask(database_url, "select perdure.start('waits')")[0]
        async with app.node(views=False):
            assert set(await app.run(run).result(timeout=10)) == {"a", "b"}
            assert set(await app.run(keyed).result(timeout=10)) == {"a", "b"}
            assert set(await app.run(cancelled).result(timeout=10)) == {"a", "b"}
            for refused in (before, after, second):
                with pytest.raises(UnknownRun, match=r"no active workflow|is open"):
                    await app.run(refused).result(timeout=10)


async def test_a_run_can_be_cancelled_in_the_transaction_that_asks_for_it(database_url: str) -> None:
    app, client = new_app(database_url), new_app(database_url)
    recorder(app, seconds=60)
    async with client:
        await client.register(ONE, allow_unknown_types=True)
        run = uuid4()
        ask(
            database_url,
            f"""select perdure.start('one', '{{"n": 1}}', run => '{run}')""",
            f"select perdure.command('{run}', 'cancel', 'never mind')",
        )
        async with app.node(views=False):
            with pytest.raises(perdure.RunCancelled, match="never mind"):
                await app.run(run).result(timeout=10)
            await until_empty(database_url)

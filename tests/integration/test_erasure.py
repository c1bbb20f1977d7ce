"""Erasure: what a run was given and gave is gone, the log says so, and nothing else of it can be changed."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import lives
import psycopg
import pytest
from acceptance.checker import assert_kept
from acceptance.forks import ForkServer, fork_server
from applications import ONCE, facts, new_app, story, task, until, workflow
from command_line import perdure as command
from dumps import found_in
from logs import execute, opened, rows

import perdure
from perdure.encryption import EncryptionSettings
from perdure.roles import grant_node
from perdure_engine.erasure import ErasureRefused
from perdure_engine.history import UnknownRun
from perdure_engine.identity import start_stream, workflow_stream
from perdure_eventstore import keeper
from perdure_eventstore.database import raw_connection
from perdure_eventstore.vault.master import new_master_key
from perdure_eventstore.verify import verify

pytestmark = pytest.mark.every_postgres

MARK = "a-person-to-be-forgotten"
WORKFLOW = workflow("w", task("a", "go", inputs={"mark": "{{input.mark}}"}, retry=ONCE), start=["go"])
WAITING = workflow("waiting", task("a", {"event": "never", "within": "1h"}, inputs={"mark": ""}))


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("forks"), "lives") as server:
        yield server


def forgetful_app(url: str, **settings: Any) -> perdure.App:
    app = new_app(url, **settings)

    @app.task("work")
    async def work(mark: str) -> str:
        if mark.startswith("fail"):
            raise RuntimeError(f"no place for {mark}")
        return mark + "!" * 10_000

    return app


async def ended(app: perdure.App, mark: str) -> perdure.Run:
    """A run that has ended, through an event that it took in."""
    run = (await (await app.publish("go", {"mark": mark})).runs())[0]
    if mark.startswith("fail"):
        with pytest.raises(perdure.RunFailed):
            await run.result(timeout=10)
    else:
        await run.result(timeout=10)
    return run


async def chains_hold(url: str) -> None:
    async with opened(url) as engine, raw_connection(engine) as connection:
        assert [each.fault async for each in verify(connection)][-1] is None
    assert_kept(url)


async def folded(url: str) -> None:
    """The views have heard of everything."""
    behind = "select 1 from perdure.projections where position < (select max(position) from perdure.events)"
    await until(lambda: not rows(url, behind))


async def test_what_was_given_is_gone_from_every_table_and_the_chain_holds(database_url: str) -> None:
    async with forgetful_app(database_url).node() as app:
        await app.register(WORKFLOW)
        done, failed = await ended(app, MARK), await ended(app, f"fail {MARK}")
        other = await ended(app, "another-person")
        await folded(database_url)
        assert found_in(database_url, MARK) == ["perdure.events", "perdure.payloads", "perdure.tasks"]
        events = [
            row[0]
            for row in rows(database_url, "select id from perdure.events where type = 'EventPublished' order by 1")
        ]
        for stream in (done.run_id, failed.run_id, *events):
            assert (await app.erase(stream, reason="asked to", actor="Ada")).payloads > 0
            assert (await app.erase(stream)).payloads == 0
        await folded(database_url)
        assert found_in(database_url, MARK) == []
        assert (await other.result())["a"].startswith("another-person")
        assert found_in(database_url, "another-person") == ["perdure.events", "perdure.payloads"]
        with pytest.raises(perdure.RunErased, match="is completed, and its payloads were erased: there is no result"):
            await app.run(done.run_id).result()
        state = await failed.state()
        assert (state.status, state.input.value) == ("failed", None)
    assert facts(database_url, done.run_id, "PayloadsErased") == [
        {"first": 1, "last": 4, "payloads": 3, "reason": "asked to", "actor": "Ada"}
    ]
    assert story(database_url, done.run_id)[-2:] == ["RunCompleted", "PayloadsErased"]
    assert rows(database_url, "select error from perdure.runs where status = 'failed'") == [("a failed",)]
    assert rows(database_url, "select count(*) from perdure.keeper") == [(0,)]
    await chains_hold(database_url)


async def test_an_encrypted_run_loses_its_key_first(database_url: str, tmp_path: Path) -> None:
    new_master_key(tmp_path / "master")
    encryption = EncryptionSettings(master_key=tmp_path / "master")
    async with forgetful_app(database_url, encryption=encryption).node() as app:
        await app.register(WORKFLOW)
        run = await ended(app, MARK)
        keys = "select destroyed_at is not null and wrapped is null from perdure.keys where stream = %s"
        assert rows(database_url, keys, [run.run_id]) == [(False,)]
        execute(database_url, "alter function perdure.erase_payloads rename to mislaid")
        with pytest.raises(Exception, match="erase_payloads"):
            await app.erase(run.run_id)
        assert rows(database_url, keys, [run.run_id]) == [(True,)]
        assert [e.payload async for e in app.client.reader.stream(run.run_id)] == [None] * 5
        execute(database_url, "alter function perdure.mislaid rename to erase_payloads")
        assert (await app.erase(run.run_id)).payloads == 3
    await chains_hold(database_url)


async def test_who_still_needs_its_payloads_is_not_erased(database_url: str) -> None:
    async with forgetful_app(database_url) as app:
        await app.register(WORKFLOW)
        await app.register(WAITING, allow_unknown_types=True)
        open_run, event = await app.start("waiting"), await app.publish("go", {"mark": MARK})
        refused = {
            open_run.run_id: f"run {open_run.run_id} is open and needs its inputs: cancel it first, or let it end",
            event.event_id: f"event {event.event_id} was not routed to its runs yet: a node has to do that first",
            workflow_stream("w"): "is neither a run nor a published event",
        }
        for stream, sentence in refused.items():
            with pytest.raises(ErasureRefused, match=sentence):
                await app.erase(stream)
        nobody = uuid4()
        with pytest.raises(UnknownRun, match=f"there is no run or published event {nobody}"):
            await app.erase(nobody)
        async with app.node():
            (run,) = await event.runs()
            await run.result(timeout=10)
            insert = "insert into perdure.inbox (run, shard, kind, event) values ('{}', 99, 'event', '{}')"
            execute(database_url, insert.format(open_run.run_id, event.event_id))
            with pytest.raises(
                ErasureRefused, match=f"run {open_run.run_id} has not taken in event {event.event_id} yet"
            ):
                await app.erase(event.event_id)
            execute(database_url, "delete from perdure.inbox")
            await app.erase(event.event_id)
            with pytest.raises(perdure.StartRefused, match="was published before, and erased since; choose another id"):
                await app.publish("go", {"mark": MARK}, event_id=event.event_id)
            await app.erase(run.run_id)
            with pytest.raises(perdure.StartRefused, match="was started before, and its payloads were erased"):
                await app.start("w", {"mark": MARK}, event="go", run_id=run.run_id)
            assert await event.runs() != []
    await chains_hold(database_url)


async def test_readers_pass_over_it(database_url: str) -> None:
    """A subscription from the log's first event, a node that starts anew, and the views folded from nothing."""
    async with forgetful_app(database_url).node() as app:
        await app.register(WORKFLOW)
        run = await ended(app, f"fail {MARK}")
        await app.erase(run.run_id)
        await folded(database_url)
        before = [rows(database_url, f"select * from perdure.{table}") for table in ("runs", "tasks")]
    app, heard = forgetful_app(database_url), list[perdure.Event]()
    app.subscribe("all", from_start=True)(heard.append)
    execute(database_url, "truncate perdure.runs, perdure.tasks", "update perdure.projections set position = 0")
    async with app.node():
        other = await ended(app, "other")
        await until(lambda: heard and heard[-1].name == "run_completed")
        await folded(database_url)
    assert [event.name for event in heard].count("payloads_erased") == 1
    (erased,) = [event for event in heard if event.name == "payloads_erased"]
    assert (erased.run_id, erased.recorded.stream, erased.data["payloads"]) == (None, run.run_id, 3)
    assert [event.payload for event in heard if event.run_id == run.run_id] == [None] * 5
    after = [
        rows(database_url, f"select * from perdure.{table} where run <> %s", [other.run_id])
        for table in ("runs", "tasks")
    ]
    assert after == before


async def test_the_command(database_url: str, tmp_path: Path) -> None:
    async with forgetful_app(database_url).node() as app:
        await app.register(WORKFLOW)
        run = await ended(app, f"fail {MARK}")
    settings = {"PERDURE_DATABASE_URL": database_url}
    done = command(tmp_path, "erase", "last", "--reason", "asked to", "--actor", "Ada", "--json", **settings)
    assert (done.status, done.lines) == (0, [{"stream": str(run.run_id), "payloads": 3}])
    assert rows(database_url, "select error from perdure.tasks") == [(None,)]
    shown = command(tmp_path, "show", "last", "--json", **settings).lines[0]
    assert (shown["status"], shown["input"], shown["erased"], shown["error"]) == ("failed", None, True, "a failed")
    assert "its payloads were erased" in command(tmp_path, "show", "last", **settings).out
    history = command(tmp_path, "history", "last", **settings)
    assert (history.status, "PayloadsErased" in history.out, "erased" in history.out) == (0, True, True)
    assert command(tmp_path, "verify", **settings).status == 0
    nobody = command(tmp_path, "erase", str(uuid4()), **settings)
    assert (nobody.status, "there is no run or published event" in nobody.err) == (2, True)


async def test_killed_at_any_moment_every_payload_is_there_or_accounted_for_and_a_repeat_completes(
    forks: ForkServer, database_url: str
) -> None:
    seed = random.randrange(10**9)
    print("seed", seed)
    chance = random.Random(seed)
    tasks = [task(f"t{n}", inputs={"mark": "{{input.mark}}"}) for n in range(60)]
    async with forgetful_app(database_url).node() as app:
        await app.register(workflow("many", *tasks))
        run = await app.start("many", {"mark": MARK})
        await run.result(timeout=30)
    left = """select count(*) filter (where payload_salt is not null), count(*) filter (where payload_digest is not null
        and payload_salt is null and not exists (select from perdure.events k where k.stream = e.stream
            and k.type = 'PayloadsErased' and e.version between (k.data->>'first')::int and (k.data->>'last')::int))
        from perdure.events e where stream = %s"""
    # Longer and longer, so that on any machine some kills come before its work, some into it.
    kills, most = 0, 0.02
    while rows(database_url, left, [run.run_id])[0][0]:
        most *= 1.2
        child = forks.fork(lives.eraser, url=database_url, run=str(run.run_id), batch=3)
        if not await asyncio.to_thread(child.has_ended, chance.uniform(0.7, 1.0) * most):
            child.kill()
            kills += 1
        assert rows(database_url, left, [run.run_id])[0][1] == 0
    assert kills > 1
    assert found_in(database_url, MARK) == []
    said = facts(database_url, run.run_id, "PayloadsErased")
    assert [each["first"] for each in said] == sorted(each["first"] for each in said)
    assert sum(each["payloads"] for each in said) == 121
    await chains_hold(database_url)


FORBIDDEN = [
    "update perdure.events set type = 'Other'",
    "update perdure.events set payload = 'x', payload_salt = null",
    "update perdure.events set payload = null, payload_salt = null, data = '{}'",
    "update perdure.events set payload = null, payload_salt = null, payload_digest = null",
    "update perdure.events set payload = null, payload_salt = null, hash = 'x'",
    "update perdure.events set position = default",
    "delete from perdure.events",
    "delete from perdure.payloads",
    "truncate perdure.events",
    "truncate perdure.payloads",
    "update perdure.payloads set payload = 'x'",
    "update perdure.archived set versions = 0",
    "delete from perdure.archived",
]


async def test_even_with_the_keepers_mark_nothing_but_a_payload_can_go(database_url: str) -> None:
    """Somebody who owns the database and forges the mark of the keeper in a transaction of his own."""
    async with forgetful_app(database_url).node() as app:
        await app.register(WORKFLOW)
        await ended(app, MARK)
    forge = b"insert into perdure.keeper values (pg_current_xact_id()::text::bigint)"
    archive = b"insert into perdure.archived values (gen_random_uuid(), 1, '', 'empty', '', now())"
    everything = b"select array_agg(e order by position)::text from perdure.events e"
    with psycopg.connect(database_url, autocommit=True) as connection:
        before = connection.execute(everything).fetchone()
        for statement in FORBIDDEN:
            with pytest.raises(psycopg.Error) as refused, connection.transaction():
                connection.execute(archive)
                connection.execute(forge)
                connection.execute(statement.encode())
            assert refused.value.sqlstate == "PD001", statement
            assert "the log is append-only" in str(refused.value)
        assert connection.execute(everything).fetchone() == before


async def test_after_the_keeper_has_worked_its_transaction_may_change_no_more_than_any_other(database_url: str) -> None:
    async with forgetful_app(database_url).node() as app:
        await app.register(WORKFLOW)
        run, other = await ended(app, MARK), await ended(app, MARK)
    with psycopg.connect(database_url) as connection:
        connection.execute("select perdure.erase_payloads(%s, 100, '', '')", [run.run_id])
        with pytest.raises(psycopg.Error, match=r"UPDATE on .* is refused"):
            connection.execute(
                "update perdure.events set payload = null, payload_salt = null where stream = %s", [other.run_id]
            )


@pytest.mark.parametrize("node", [False, True], ids=["a guest", "a node's role"])
async def test_only_the_owner_may_call_the_keeper(database_url: str, node: bool) -> None:
    role = f"guest_{uuid4().hex}"
    execute(database_url, f"create role {role}", f"grant usage on schema perdure to {role}")
    if node:
        async with opened(database_url) as engine:
            await grant_node(engine, "perdure", role)
    execute(database_url, f"grant all on perdure.events to {role}")
    try:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(f"set role {role}".encode())
            for statement, sentence in (
                ("select perdure.erase_payloads(gen_random_uuid(), 1, '', '')", "permission denied for function"),
                ("select perdure.erase_archived(gen_random_uuid(), 1, '', '')", "permission denied for function"),
                ("select perdure.remove_archived('{}', '{}', '{}', '', '')", "permission denied for function"),
                (
                    "select perdure.record_keeping(gen_random_uuid(), 1, '', 'X', '{}')",
                    "permission denied for function",
                ),
                ("insert into perdure.keeper values (1)", "permission denied for table"),
                (
                    "insert into perdure.archived values (gen_random_uuid(), 1, '', 'empty', '')",
                    "permission denied for",
                ),
                ("update perdure.keys set wrapped = null", "permission denied for table"),
                ("update perdure.events set payload = null", "the log is append-only"),
            ):
                with pytest.raises(psycopg.Error, match=sentence):
                    connection.execute(statement.encode())
    finally:
        execute(database_url, f"drop owned by {role}", f"drop role {role}")


async def test_the_event_hashes_as_any_other(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_BATCH", 2)
    async with forgetful_app(database_url).node() as app:
        await app.register(WORKFLOW)
        run = await ended(app, "x")
        assert (await app.erase(run.run_id, reason='for "no" reason\n', actor="Ädä")).payloads == 3
    assert [(each["first"], each["last"]) for each in facts(database_url, run.run_id, "PayloadsErased")] == [
        (1, 2),
        (4, 4),
    ]
    assert facts(database_url, run.run_id, "PayloadsErased")[0]["reason"] == 'for "no" reason\n'
    await chains_hold(database_url)


async def test_the_key_and_the_request_of_a_run_go_with_it(database_url: str) -> None:
    """A run with a key, asked for in SQL: its input is in the request as well, and its key in the view."""
    keyed = workflow("keyed", task("a", inputs={"mark": "{{input.mark}}"}), key="{{input.mark}}")
    async with forgetful_app(database_url).node() as app:
        await app.register(keyed)
        start = "select perdure.start('keyed', json_build_object('mark', %s::text), key => %s)"
        run = rows(database_url, start, [MARK, MARK])[0][0]
        await app.run(run).result(timeout=10)
        await folded(database_url)
        assert rows(database_url, "select key from perdure.runs") == [(MARK,)]
        assert (await app.erase(run)).payloads == 4
        await folded(database_url)
        assert rows(database_url, "select key from perdure.runs") == [(None,)]
        assert found_in(database_url, MARK) == []
    async with opened(database_url) as engine, raw_connection(engine) as connection:
        assert [each.fault async for each in verify(connection)][-1] is None


async def test_a_run_that_was_asked_for_and_never_started_is_erased_by_its_id(database_url: str) -> None:
    run = rows(database_url, "select perdure.start('nowhere', json_build_object('mark', %s::text))", [MARK])[0][0]
    async with forgetful_app(database_url) as app:
        with pytest.raises(ErasureRefused, match="was not routed to its runs yet"):
            await app.erase(run)
        async with app.node():
            await until(lambda: len(rows(database_url, "select from perdure.events where type = 'EventRouted'")) == 1)
        assert [(await app.erase(run)).payloads for _ in range(2)] == [1, 0]
    assert found_in(database_url, MARK) == []
    await chains_hold(database_url)


async def test_a_run_that_was_erased_is_not_asked_for_again(database_url: str) -> None:
    async with forgetful_app(database_url).node() as app:
        await app.register(WORKFLOW)
        run = await ended(app, MARK)
        await app.erase(run.run_id)
        again = "select perdure.start('w', json_build_object('mark', %s::text), run => %s)"
        rows(database_url, again, [MARK, run.run_id])
        (match,) = (await app.client.routed(start_stream(run.run_id), 10)).matches
        assert (
            match.reason == f"run {run.run_id} was started before, and its payloads were erased; choose another run id"
        )
        event = (await app.publish("unheard_of", {"mark": MARK})).event_id
        await app.client.routed(event, 10)
        await app.erase(event)
        with pytest.raises(psycopg.Error, match=f"the id {event} was used before, and erased since; choose another"):
            rows(database_url, "select perdure.publish('unheard_of', '{}', id => %s)", [event])

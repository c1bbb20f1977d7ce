"""Encrypted payloads: runs go on as ever, the database holds no word of them, and who has no key gets a sentence."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from acceptance.checker import assert_kept
from applications import ONCE, SOON, new_app, recorder, shards, story, task, tenure_of, until, workflow
from command_line import perdure as command
from dumps import found_in
from logs import execute, new_stream, opened, read_stream, rows, running
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from structlog.testing import capture_logs

import perdure
from perdure.encryption import EncryptionSettings
from perdure.errors import WrongConnection
from perdure_engine.identity import shard_of
from perdure_eventstore.append import Append
from perdure_eventstore.errors import AppendRefused, LogUnavailable
from perdure_eventstore.events import NO_STREAM, NewEvent
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session
from perdure_eventstore.vault.errors import VaultError
from perdure_eventstore.vault.master import MasterKeys, new_master_key
from perdure_eventstore.vault.postgres_store import PostgresKeyStore
from perdure_eventstore.vault.vault import Vault

pytestmark = pytest.mark.every_postgres

MARK = "very-private-marker"
STORES = ["postgres", "file", "another database"]


@pytest.fixture
def master(tmp_path: Path) -> Path:
    new_master_key(tmp_path / "master")
    return tmp_path / "master"


@pytest.fixture(params=STORES)
def encryption(request: pytest.FixtureRequest, master: Path, database_url: str, tmp_path: Path) -> EncryptionSettings:
    if request.param == "postgres":
        return EncryptionSettings(master_key=master)
    if request.param == "file":
        (tmp_path / "keys").mkdir()
        return EncryptionSettings(master_key=master, store=f"file:{tmp_path / 'keys'}")
    other = f"keys_{uuid4().hex}"
    execute(database_url, f"create database {other} template template0")
    request.addfinalizer(lambda: execute(database_url, f"drop database {other} with (force)"))
    url = make_url(database_url).set(database=other).render_as_string(hide_password=False)
    return EncryptionSettings(master_key=master, store=url)


def private_app(url: str, encryption: EncryptionSettings | None, **settings: Any) -> perdure.App:
    app = new_app(url, **settings, **({"encryption": encryption} if encryption else {}))

    @app.task()
    async def work(task: perdure.Task, mark: str) -> dict[str, str]:
        if task.task_id == "flaky" and task.attempt == 1:
            raise RuntimeError(f"it failed over {mark}")
        if task.task_id == "doomed":
            raise RuntimeError(f"it ended over {mark}")
        return {"out": mark + "!" * 20_000 if task.task_id == "large" else mark}

    @app.task()
    async def book(task: perdure.Task, connection: AsyncConnection, mark: str) -> str:
        await connection.execute(text("select 1"))
        return mark

    return app


MARKED = {"mark": "{{input.mark}}"}
ALL = workflow(
    "all",
    task("flaky", "go", inputs=MARKED, retry=SOON),
    task("large", "flaky.completed", inputs=MARKED),
    task("booked", "large.completed", type="book", inputs=MARKED),
    task("late", {"all": ["booked.completed", {"event": "more", "within": "1h"}]}, inputs=MARKED),
    start=["go"],
    output={"mine": "{{tasks.late.output.out}}", "theirs": "{{tasks.booked.output}}"},
)  # fmt: skip


async def test_runs_go_on_as_ever_and_the_database_holds_no_word_of_them(
    database_url: str, encryption: EncryptionSettings
) -> None:
    failing = workflow("failing", task("doomed", inputs=MARKED, retry=ONCE))
    async with private_app(database_url, encryption).node() as app:
        heard: list[Any] = []
        app.on("go", "task_completed")(lambda event: heard.append(event.payload))
        await app.register(ALL)
        await app.register(failing)
        published = await app.publish("go", {"mark": MARK})
        (run,) = await published.runs()
        lost = await app.start("failing", {"mark": MARK})
        with pytest.raises(perdure.RunFailed, match=f"it ended over {MARK}"):
            await lost.result(timeout=10)
        await until(lambda: "TaskCompleted booked 1" in story(database_url, run.run_id))
    assert "TaskFailed flaky 1" in story(database_url, run.run_id)
    async with private_app(database_url, encryption).node() as app:
        await app.publish("more", {"mark": MARK})
        again = app.run(run.run_id)
        assert await again.result(timeout=10) == {"mine": MARK, "theirs": MARK}
        assert (await again.state()).input.value == {"mark": MARK}
        behind = "select 1 from perdure.projections where position < (select max(position) from perdure.events)"
        await until(lambda: not rows(database_url, behind))
    assert {"mark": MARK} in heard
    assert_kept(database_url)
    assert found_in(database_url, MARK) == []
    assert rows(database_url, "select count(*) from perdure.payloads") == [(0,)]  # 20,000 "!" compress well
    assert rows(database_url, "select task_id, failures, error from perdure.tasks where failures > 0 order by 1") == [
        ("doomed", 1, None), ("flaky", 1, None),
    ]  # fmt: skip
    kinds = "select type, substr(payload, 1, 1) from perdure.events where payload is not null group by 1, 2 order by 1"
    assert {type_ for type_, first in rows(database_url, kinds) if first != b"\x01"} == {"DefinitionRegistered"}


async def test_without_a_vault_the_marker_would_be_found(database_url: str) -> None:
    async with private_app(database_url, None).node() as app:
        await app.register(workflow("failing", task("doomed", inputs=MARKED, retry=ONCE)))
        run = await app.start("failing", {"mark": MARK})
        with pytest.raises(perdure.RunFailed):
            await run.result(timeout=10)
        told = "select from perdure.runs join perdure.tasks using (run) where runs.error > '' and tasks.error > ''"
        await until(lambda: rows(database_url, told))
    assert "perdure.events" in found_in(database_url, MARK)
    assert "perdure.tasks" in found_in(database_url, MARK)


async def test_turned_on_later_open_runs_go_on_with_both(database_url: str, master: Path) -> None:
    definition = workflow(
        "w",
        task("a", inputs=MARKED),
        task("b", {"all": ["a.completed", {"event": "more", "within": "1h"}]}, inputs=MARKED),
    )
    async with private_app(database_url, None).node() as app:
        await app.register(definition)
        run = await app.start("w", {"mark": MARK})
        await until(lambda: "TaskCompleted a 1" in story(database_url, run.run_id))
    async with private_app(database_url, EncryptionSettings(master_key=master)).node() as app:
        await app.publish("more")
        assert (await app.run(run.run_id).result(timeout=10))["b"] == {"out": MARK}
    frames = """select substr(payload, 1, 1) = '\x01' from perdure.events
        where stream = %s and type = 'TaskCompleted' order by version"""
    assert rows(database_url, frames, [run.run_id]) == [(False,), (True,)]


async def encrypted_run(url: str, encryption: EncryptionSettings) -> UUID:
    async with private_app(url, encryption).node() as app:
        await app.register(workflow("w", task("a", inputs=MARKED)))
        run = await app.start("w", {"mark": MARK})
        await run.result(timeout=10)
    return run.run_id


async def refusal(url: str, encryption: EncryptionSettings | None, run: UUID) -> str:
    with pytest.raises(VaultError) as error:
        async with private_app(url, encryption) as app:
            await app.run(run).result(timeout=10)
    return str(error.value)


async def test_without_the_key_there_is_a_sentence_and_no_result(
    database_url: str, encryption: EncryptionSettings, tmp_path: Path
) -> None:
    run = await encrypted_run(database_url, encryption)
    assert await refusal(database_url, None, run) == (
        f"the payload of version 1 of stream {run} is encrypted: set PERDURE_ENCRYPTION_MASTER_KEY, "
        "and PERDURE_ENCRYPTION_STORE, as the program that wrote it has them"
    )
    new_master_key(tmp_path / "other")
    wrong = encryption.model_copy(update={"master_key": tmp_path / "other"})
    said = await refusal(database_url, wrong, run)
    assert said.startswith("the key of stream ")
    assert said.endswith(f", which is not in {tmp_path / 'other'}")
    gone = encryption.model_copy(update={"master_key": tmp_path / "missing"})
    assert await refusal(database_url, gone, run) == (
        f"the master key {tmp_path / 'missing'} cannot be read: No such file or directory"
    )
    (tmp_path / "empty").mkdir()
    elsewhere = EncryptionSettings(master_key=encryption.master_key, store=f"file:{tmp_path / 'empty'}")
    assert await refusal(database_url, elsewhere, run) == (
        f"the payload of version 1 of stream {run} is encrypted, and the key store has no key for it"
    )


async def test_a_node_without_the_key_does_not_start_on_keys_in_its_own_database(
    database_url: str, master: Path
) -> None:
    await encrypted_run(database_url, EncryptionSettings(master_key=master))
    with pytest.raises(VaultError, match="are encrypted: this needs PERDURE_ENCRYPTION_MASTER_KEY"):
        async with private_app(database_url, None).node():
            pass


async def test_a_program_without_the_key_neither_publishes_in_the_clear_nor_erases_and_leaves_the_key(
    database_url: str, master: Path
) -> None:
    run = await encrypted_run(database_url, EncryptionSettings(master_key=master))
    async with private_app(database_url, None) as app:
        for attempt in (app.publish("go", {"mark": MARK}), app.start("w", {"mark": MARK}), app.erase(run)):
            with pytest.raises(VaultError, match="are encrypted: this needs PERDURE_ENCRYPTION_MASTER_KEY"):
                await attempt
    assert rows(database_url, "select count(*) from perdure.keys where wrapped is null") == [(0,)]


async def test_a_node_with_another_key_leaves_the_runs_to_one_that_has_it(
    database_url: str, master: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its own keys wrap some, so it starts; what it cannot read it neither loses nor decides."""
    (tmp_path / "keys").mkdir()
    mine = EncryptionSettings(master_key=master, store=f"file:{tmp_path / 'keys'}")
    new_master_key(tmp_path / "other")
    (tmp_path / "others").mkdir()
    other = EncryptionSettings(master_key=tmp_path / "other", store=f"file:{tmp_path / 'others'}")
    async with private_app(database_url, mine) as app:
        await app.register(workflow("w", task("a", "go", inputs=MARKED)))
        started = await app.start("w", {"mark": MARK}, event="go")
        published = await app.publish("go", {"mark": MARK})
        async with private_app(database_url, other).node():
            with pytest.raises(TimeoutError):
                await published.routed(timeout=1.0)
            assert story(database_url, started.run_id) == ["RunStarted", "TaskScheduled a 1"]
        async with private_app(database_url, mine).node():
            assert await started.result(timeout=10) == {"a": {"out": MARK}}
            (run,) = await published.runs(timeout=10)
            assert await run.result(timeout=10) == {"a": {"out": MARK}}
    assert "the key store has no key for it" in capfd.readouterr().out
    assert_kept(database_url)


async def test_a_destroyed_key_leaves_null_and_takes_nothing_more(
    database_url: str, encryption: EncryptionSettings
) -> None:
    run = await encrypted_run(database_url, encryption)
    async with private_app(database_url, encryption) as app:
        vault = app.client.vault
        assert vault is not None
        await vault.destroy([run])
        async for event in app.client.reader.stream(run):
            assert event.payload is None
            assert (event.payload_digest is None) == (event.type in ("TaskStarted", "RunCompleted"))
        head = await app.client.reader.head(run)
        with pytest.raises(AppendRefused, match=f"stream {run} was erased and its key destroyed: it takes no more"):
            await app.client.appender.append(Append(run, head, [NewEvent("More", payload=b"{}")]))
    assert_kept(database_url)


async def test_one_append_that_cannot_be_encrypted_suffers_for_itself(database_url: str, master: Path) -> None:
    good, bad = new_stream(2, payload=b'{"a": 1}'), new_stream(1, payload=b"{}")
    plain = Append(uuid4(), NO_STREAM, [NewEvent("Open", payload=b'{"b": 2}')], in_the_clear=True)
    bare = new_stream()
    async with opened(database_url) as engine:
        store = PostgresKeyStore(engine)
        vault = Vault(MasterKeys(master), store)
        await vault.destroy([bad.stream])
        async with running(engine, vault=vault) as appender:
            answers = await asyncio.gather(
                *(appender.append(each) for each in (good, bad, plain, bare)), return_exceptions=True
            )
        assert [type(answer).__name__ for answer in answers] == ["Appended", "AppendRefused", "Appended", "Appended"]
        assert (await read_stream(engine, plain.stream))[0].payload == b'{"b": 2}'
        session = Session(engine)
        found = [event async for event in Reader(session, vault=vault).stream(good.stream)]
        assert [event.payload for event in found] == [b'{"a": 1}'] * 2
        await session.close()
        await store.close()
    assert rows(database_url, "select stream from perdure.keys where wrapped is not null") == [(good.stream,)]


async def test_rotation_rewraps_every_key_and_the_old_master_key_can_go(
    database_url: str, encryption: EncryptionSettings
) -> None:
    assert encryption.master_key is not None
    run = await encrypted_run(database_url, encryption)
    new_master_key(encryption.master_key, add=True)
    async with private_app(database_url, encryption) as app:
        assert app.client.vault is not None
        newer = await app.publish("nobody", {"mark": MARK})
        assert await app.run(run).result(timeout=1) == {"a": {"out": MARK}}
        assert [await app.client.vault.rotate() for _ in range(2)] == [1, 0]
    encryption.master_key.write_text(encryption.master_key.read_text().splitlines()[-1])
    async with private_app(database_url, encryption) as app:
        assert await app.run(run).result(timeout=1) == {"a": {"out": MARK}}
        assert [e.payload async for e in app.client.reader.stream(newer.event_id)] == [
            b'{"payload":{"mark":"%s"}}' % MARK.encode()
        ]


def test_the_commands_say_what_is_wrong(tmp_path: Path) -> None:
    made = command(tmp_path, "keys", "new", "master")
    assert (made.status, made.out.startswith("master holds master key ")) == (0, True)
    again = command(tmp_path, "keys", "new", "master")
    assert (again.status, again.err) == (
        2, "perdure: master is there already: give another name, or --add to put a newer key into it\n"
    )  # fmt: skip
    none = command(tmp_path, "keys", "rotate", PERDURE_DATABASE_URL=f"embedded:{tmp_path / 'db'}")
    assert none.status == 2
    assert "nothing is encrypted here: PERDURE_ENCRYPTION_MASTER_KEY is not set" in none.err
    for settings, sentence in (
        ({"STORE": "file:x"}, "a key store without a master key"),
        ({"STORE": "redis://", "MASTER_KEY": "master"}, "the key store is postgres, file:FOLDER or postgresql://"),
    ):
        refused = command(tmp_path, "runs", **{f"PERDURE_ENCRYPTION_{name}": value for name, value in settings.items()})
        assert refused.status == 2
        assert sentence in refused.err


async def test_show_gets_errors_out_of_the_events(database_url: str, master: Path, tmp_path: Path) -> None:
    async with private_app(database_url, EncryptionSettings(master_key=master)).node() as app:
        await app.register(workflow("failing", task("doomed", inputs=MARKED, retry=ONCE)))
        run = await app.start("failing", {"mark": MARK})
        with pytest.raises(perdure.RunFailed):
            await run.result(timeout=10)
    settings = {"PERDURE_DATABASE_URL": database_url, "PERDURE_ENCRYPTION_MASTER_KEY": str(master)}
    assert command(tmp_path, "keys", "new", str(master), "--add").status == 0
    assert command(tmp_path, "keys", "rotate", "--json", **settings).lines == [{"rewrapped": 1}]
    shown = command(tmp_path, "show", str(run.run_id), "--json", **settings).lines[0]
    assert (shown["error"], shown["tasks"][0]["error"]) == ("doomed failed", f"it ended over {MARK}")
    assert f"it ended over {MARK}" in command(tmp_path, "show", str(run.run_id), **settings).out
    assert MARK in command(tmp_path, "history", str(run.run_id), **settings).out
    blind = command(tmp_path, "show", str(run.run_id), PERDURE_DATABASE_URL=database_url)
    assert blind.status == 2
    assert "is encrypted: set PERDURE_ENCRYPTION_MASTER_KEY" in blind.err
    assert command(tmp_path, "runs", "--json", PERDURE_DATABASE_URL=database_url).lines[0]["error"] == "doomed failed"


async def test_snapshots_and_keys_are_encrypted_too(database_url: str, master: Path) -> None:
    """A run's key is in the clear while it is open, where events are matched with it, and nowhere afterwards."""
    tasks = [task(f"t{n}", *([f"t{n - 1}.completed"] if n else ["go"]), inputs=MARKED) for n in range(6)]
    waits = task("late", {"all": ["t5.completed", {"event": "more", "within": "1h"}]}, inputs=MARKED)
    definition = workflow("keyed", *tasks, waits, start=["go"], key="{{event.payload.mark}}")
    settings: dict[str, Any] = {"encryption": EncryptionSettings(master_key=master), "snapshot_every": 5}
    async with private_app(database_url, **settings).node() as app:
        await app.register(definition)
        (run,) = await (await app.publish("go", {"mark": MARK})).runs()
        await until(lambda: rows(database_url, "select 1 from perdure.snapshots"))
        await until(lambda: "TaskCompleted t5 1" in story(database_url, run.run_id))
        assert set(found_in(database_url, MARK)) <= {"perdure.open_runs", "perdure.waits"}
        assert rows(database_url, "select distinct get_byte(state, 32) from perdure.snapshots") == [(1,)]
    async with private_app(database_url, **settings).node() as app:
        await app.publish("more", {"mark": MARK})
        assert (await app.run(run.run_id).result(timeout=10))["late"] == {"out": MARK}
        behind = "select 1 from perdure.projections where position < (select max(position) from perdure.events)"
        await until(lambda: not rows(database_url, behind))
    assert found_in(database_url, MARK) == []
    assert rows(database_url, "select key from perdure.runs") == [(None,)]


def vault_of(master: Path, engine: AsyncEngine) -> Vault:
    return Vault(MasterKeys(master), PostgresKeyStore(engine, "perdure"))


async def test_what_would_be_staged_in_the_clear_is_refused(database_url: str, master: Path) -> None:
    app = private_app(database_url, EncryptionSettings(master_key=master))
    async with app, app.database.begin() as connection:
        for asking in (app.publish("arrived", MARK, connection=connection), app.start("any", connection=connection)):
            with pytest.raises(WrongConnection, match="would lie in the log in the clear; leave connection= out"):
                await asking
    with psycopg.connect(database_url) as own, app.blocking() as client:
        with pytest.raises(WrongConnection, match="in the clear"):
            client.publish("arrived", MARK, connection=own)
        with pytest.raises(WrongConnection, match="in the clear"):
            client.start("any", connection=own)
    assert rows(database_url, "select count(*) from perdure.events where type = 'EventPublished'") == [(0,)]


async def test_payloads_that_are_not_asked_for_need_no_key(database_url: str, master: Path) -> None:
    async with opened(database_url) as engine, running(engine, vault=vault_of(master, engine)) as appender:
        one = new_stream(2, payload=b'{"a": 1}')
        await appender.append(one)
        session = Session(engine)
        found = [each async for each in Reader(session).stream(one.stream, payloads=False)]
        await session.close()
    assert [each.version for each in found] == [1, 2]


async def test_of_several_together_one_that_cannot_be_encrypted_is_the_end_of_all(
    database_url: str, master: Path
) -> None:
    async with opened(database_url) as engine:
        vault = vault_of(master, engine)
        async with running(engine, vault=vault) as appender:
            whole = [new_stream(payload=b"1"), new_stream(payload=b"2")]
            assert len(await appender.append_together(whole)) == 2
            mate, late = new_stream(payload=b"3"), new_stream(payload=b"4")
            await vault.destroy([late.stream])
            with pytest.raises(AppendRefused, match="it cannot be encrypted"):
                await appender.append_together([mate, late])
        assert await read_stream(engine, mate.stream) == []


async def test_a_key_store_that_is_out_of_reach_for_a_moment_costs_an_append_nothing_but_time(
    database_url: str, master: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outages, original = [LogUnavailable("away")] * 3, PostgresKeyStore.create

    async def create(self: PostgresKeyStore, wrapped: Mapping[UUID, bytes]) -> dict[UUID, bytes | None]:
        if outages:
            raise outages.pop()
        return await original(self, wrapped)

    async with private_app(database_url, EncryptionSettings(master_key=master), patience=10.0) as app:
        monkeypatch.setattr(PostgresKeyStore, "create", create)
        assert (await app.publish("went", {"mark": MARK})).position is not None
    assert outages == []


async def test_what_came_of_one_attempt_and_cannot_be_encrypted_holds_up_no_other(
    database_url: str, master: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encryption = EncryptionSettings(master_key=master)
    left, right = [new_app(database_url, encryption=encryption) for _ in range(2)]
    recorder(left, "left")
    end, seal, bad = asyncio.Event(), Vault.seal_state, list[UUID]()

    @right.task("right")
    async def wait(task: perdure.Task) -> int:
        await end.wait()
        return task.attempt

    async def no_key(vault: Vault, stream: UUID, text: bytes) -> bytes:
        if stream in bad and text == b"1":
            raise VaultError("the key store has no key for it")
        return await seal(vault, stream, text)

    monkeypatch.setattr(Vault, "seal_state", no_key)
    async with left.node(views=False), right.node(views=False):
        await until(lambda: sorted(map(len, shards(database_url).values())) == [32, 32])
        definition = workflow("w", task("a", type="left"), task("b", "a.completed", type="right"))
        await left.register(definition, allow_unknown_types=True)
        runs = [await left.start("w") for _ in range(20)]
        tenure = tenure_of(right)
        await until(lambda: len(tenure.attempts) == len(runs))
        away = [run for run in runs if shard_of(run.run_id) not in tenure.leases.shards]
        bad.append(away[0].run_id)
        with capture_logs() as said:
            end.set()
            for run in runs:
                assert (await run.result(timeout=10))["b"] == (2 if run.run_id in bad else 1)
    assert {"TaskInterrupted b 1", "TaskScheduled b 2"} <= set(story(database_url, bad[0]))
    assert [(each["run"], each["task"]) for each in said if each["log_level"] == "error"] == [(str(bad[0]), "b")]
    assert_kept(database_url)

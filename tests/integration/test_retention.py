"""Archiving: what is over goes to a file that was read back whole, and only then out of the log; the chain goes on."""

import asyncio
import gzip
import io
import random
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import lives
import psycopg
import pytest
from acceptance.forks import ForkServer, fork_server
from applications import ONCE, new_app, story, task, until, workflow
from command_line import perdure as command
from dumps import found_in
from logs import execute, new_stream, opened, rows, running
from sqlalchemy import make_url
from transfers import another_log, exported, import_lines, url_of

import perdure
from perdure.encryption import EncryptionSettings
from perdure.migrate import migrate
from perdure.retention import ArchiveRefused
from perdure_engine import erasure
from perdure_engine.erasure import ErasureRefused
from perdure_engine.history import RunArchived
from perdure_engine.identity import start_stream
from perdure_engine.imported import ImportedWork
from perdure_eventstore.append import Append
from perdure_eventstore.archive import moving
from perdure_eventstore.archive.files import entries, erase_in, events_of, heads
from perdure_eventstore.archive.moving import Moved
from perdure_eventstore.database import raw_connection
from perdure_eventstore.errors import LogUnavailable
from perdure_eventstore.events import Head
from perdure_eventstore.head_keeper import HeadKeeper
from perdure_eventstore.keeper import Keeper
from perdure_eventstore.session import Session
from perdure_eventstore.transfer import presence, reading
from perdure_eventstore.transfer.bundling import Bundler
from perdure_eventstore.transfer.cut import Cut
from perdure_eventstore.transfer.entry import Entry, TransferRefused
from perdure_eventstore.transfer.export import export
from perdure_eventstore.transfer.frame import Selection
from perdure_eventstore.transfer.importing import import_file
from perdure_eventstore.transfer.reading import EntryReader
from perdure_eventstore.transfer.record import JsonLines
from perdure_eventstore.vault.master import new_master_key
from perdure_eventstore.verify import verify
from perdure_projections.archives import beside_archives
from perdure_projections.builtin import BUILTIN

pytestmark = pytest.mark.every_postgres

MARK = "a-person-in-an-archive"
WORKFLOW = workflow("w", task("a", "go", inputs={"mark": "{{input.mark}}"}, retry=ONCE), start=["go"])
OTHER = workflow("other", task("a", inputs={"mark": "{{input.mark}}"}, retry=ONCE))
WAITING = workflow(
    "waiting",
    task("first", "begun", inputs={"mark": ""}),
    task("a", {"event": "never", "within": "1h"}, inputs={"mark": ""}),
    start=["begun"],
)
AT_ONCE = timedelta(0)


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("forks"), "lives") as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "archive").mkdir()
    return tmp_path / "archive"


def app_on(url: str, **settings: Any) -> perdure.App:
    app = new_app(url, **settings)

    @app.task("work")
    async def work(mark: str) -> str:
        if mark.startswith("fail"):
            raise RuntimeError(f"no place for {mark}")
        return mark + "!" * 10_000

    return app


async def some_runs(url: str, **settings: Any) -> dict[str, UUID]:
    """Runs that have ended, one that has not, and enough after them for the tree to have taken them in."""
    async with app_on(url, **settings).node() as app:
        for definition in (WORKFLOW, OTHER, WAITING):
            await app.register(definition)
        event = await app.publish("go", {"mark": MARK})
        done, failed = (await event.runs())[0], await app.start("other", {"mark": f"fail {MARK}"})
        waits = await app.start("waiting")
        await done.result(timeout=10)
        with pytest.raises(perdure.RunFailed):
            await failed.result(timeout=10)
        await until(lambda: "TaskCompleted first 1" in story(url, waits.run_id))
        await fill(url)
        await views_are_kept_up(url)
    return {"event": event.event_id, "done": done.run_id, "failed": failed.run_id, "waits": waits.run_id}


async def views_are_kept_up(url: str) -> None:
    behind = "select 1 from perdure.projections where position < (select max(position) from perdure.events)"
    await until(lambda: not rows(url, behind))


async def fill(url: str) -> None:
    async with opened(url) as engine, running(engine) as appender:
        await appender.append(new_stream(600))


async def archive(url: str, folder: Path, **options: Any) -> list[Moved]:
    async with app_on(url) as app:
        return await app.archive(folder, options.pop("older_than", AT_ONCE), **options)


async def is_whole(url: str) -> None:
    async with opened(url) as engine, raw_connection(engine) as connection:
        assert [each.fault async for each in verify(connection)][-1] is None


def views(url: str) -> list[Any]:
    return [rows(url, f"select * from perdure.{table} order by 1, 2") for table in ("runs", "tasks")]


async def test_what_is_over_is_in_the_file_and_the_log_says_where(database_url: str, folder: Path) -> None:
    ids = await some_runs(database_url)
    before, seen = story(database_url, ids["done"]), views(database_url)
    (moved,) = await archive(database_url, folder)
    assert (moved.streams, moved.events) == (3, 2 + 5 + 5)
    assert moved.file.parent == folder
    assert set(heads(moved.file)) == {ids["event"], ids["done"], ids["failed"]}
    assert [event.type for event in events_of(moved.file, ids["done"])] == [line.split()[0] for line in before]
    for name in ("event", "done", "failed"):
        assert story(database_url, ids[name]) == ["StreamArchived"]
    assert story(database_url, ids["waits"])[-1] == "TaskCompleted first 1"
    assert found_in(database_url, MARK) == ["perdure.tasks"]
    assert rows(database_url, "select count(*) from perdure.keeper") == [(0,)]
    assert views(database_url) == seen
    assert await archive(database_url, folder) == []
    await is_whole(database_url)


async def test_the_id_of_what_is_archived_is_never_used_again(database_url: str, folder: Path) -> None:
    ids = await some_runs(database_url)
    (moved,) = await archive(database_url, folder)
    async with app_on(database_url).node() as app:
        with pytest.raises(
            perdure.StartRefused, match=f"run {ids['failed']} was archived: its events are in {moved.file.name}"
        ):
            await app.start("other", {"mark": "x"}, run_id=ids["failed"])
        with pytest.raises(perdure.StartRefused, match="was published before, and archived since; choose another id"):
            await app.publish("go", {"mark": MARK}, event_id=ids["event"])
        with pytest.raises(psycopg.Error, match=f"the id {ids['event']} was used before, and archived since; choose"):
            rows(database_url, "select perdure.publish('go', '{}', id => %s)", [ids["event"]])
        with pytest.raises(RunArchived, match=moved.file.name):
            await app.run(ids["done"]).result(timeout=5)
        # What the event would start has its id computed from it: that one is taken too.
        execute(database_url, "update perdure.router set position = 0")
        again = await app.publish("go", {"mark": "new"})
        (run,) = await again.runs()
        await run.result(timeout=10)
    assert story(database_url, ids["done"]) == ["StreamArchived"]
    await is_whole(database_url)


async def test_what_was_archived_is_not_asked_for_again(database_url: str, folder: Path) -> None:
    run = (await some_runs(database_url))["done"]
    await archive(database_url, folder)
    async with app_on(database_url).node() as app:
        rows(database_url, "select perdure.start('w', run => %s)", [run])
        (match,) = (await app.client.routed(start_stream(run), 10)).matches
    assert match.reason == f"{run} was used before, and archived; choose another run id"


async def test_who_is_not_over_or_not_old_or_not_asked_for_stays(database_url: str, folder: Path) -> None:
    ids = await some_runs(database_url)
    assert await archive(database_url, folder, older_than=timedelta(hours=1)) == []
    (one,) = await archive(database_url, folder, workflow="other")
    assert set(heads(one.file)) == {ids["failed"]}
    (two,) = await archive(database_url, folder, limit=1)
    assert set(heads(two.file)) == {ids["event"]}
    with pytest.raises(ArchiveRefused, match="the folder for archives is missing"):
        await archive(database_url, folder / "none")
    await is_whole(database_url)


async def test_what_somebody_has_still_to_read_stays(database_url: str, folder: Path) -> None:
    ids = await some_runs(database_url)
    last = "select max(position) from perdure.events where stream = %s"
    ends = {ids[each]: rows(database_url, last, [ids[each]])[0][0] for each in ("event", "done", "failed")}
    # They end in any order: that an event is routed is noted beside the run that it started.
    first, *others = sorted(ends, key=lambda stream: ends[stream])
    execute(database_url, f"insert into perdure.subscriptions (name, position) values ('late', {ends[first]})")
    (moved,) = await archive(database_url, folder)
    assert set(heads(moved.file)) == {first}
    execute(database_url, "delete from perdure.subscriptions")
    (moved,) = await archive(database_url, folder)
    assert set(heads(moved.file)) == set(others)


async def test_what_the_tree_has_not_taken_in_stays(database_url: str, folder: Path) -> None:
    ids = await some_runs(database_url)
    async with app_on(database_url).node() as app:
        late = await app.start("other", {"mark": "late"})
        await late.result(timeout=10)
    (moved,) = await archive(database_url, folder)
    assert late.run_id not in heads(moved.file)
    async with opened(database_url) as engine:
        session = Session(engine)
        last = rows(
            database_url, "select version, hash from perdure.events where stream = %s order by 1", [late.run_id]
        )[-1]
        assert await Keeper(session).remove({late.run_id: Head(*last)}, moved.file) == []
        await session.close()
    assert len(story(database_url, late.run_id)) == 5
    assert ids["done"] in heads(moved.file)


@pytest.mark.parametrize("bundle", [False, True], ids=["an export", "a bundle"])
async def test_nothing_is_archived_while_somebody_reads_it_page_by_page(
    database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, bundle: bool
) -> None:
    ids = await some_runs(database_url)
    original, refused, file = EntryReader.read, list[str](), io.BytesIO()

    async def read(self: EntryReader, cut: Cut, selection: Selection) -> AsyncIterator[list[Entry]]:
        async for page in original(self, cut, selection):
            if page and not refused:
                with pytest.raises(ArchiveRefused) as error:
                    await archive(database_url, folder)
                refused.append(str(error.value))
            yield page

    monkeypatch.setattr(reading, "_PAGE", 3)
    monkeypatch.setattr(EntryReader, "read", read)
    async with opened(database_url) as engine:
        if bundle:
            keeper = HeadKeeper(engine)
            await Bundler(engine, keeper, None).bundle(ids["done"], file.write)
            await keeper.close()
        else:
            await export(engine, file.write, JsonLines(), Selection((ids["done"],)), log="log")
    assert refused == ["somebody else is archiving or exporting this log just now"]
    assert len(file.getvalue().splitlines()) == 1 + 5 + 1
    monkeypatch.undo()
    (moved,) = await archive(database_url, folder)
    assert moved.streams == 3


async def test_of_what_is_archived_no_bundle_is_written(database_url: str, folder: Path) -> None:
    ids, file = await some_runs(database_url), io.BytesIO()
    (moved,) = await archive(database_url, folder)
    async with opened(database_url) as engine:
        keeper = HeadKeeper(engine)
        with pytest.raises(TransferRefused, match=rf"run {ids['done']} was archived: its events are in {moved.file}"):
            await Bundler(engine, keeper, None).bundle(ids["done"], file.write)
        await keeper.close()
    assert file.getvalue() == b""


async def test_who_exports_waits_for_who_archives(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, tried = presence._locked, list[bool]()
    async with opened(database_url) as engine, running(engine) as appender:
        await appender.append(new_stream(3))
        archiver = Session(engine)
        assert await presence.may_remove(archiver)

        async def noted(*arguments: Any) -> bool:
            tried.append(await locked(*arguments))
            await archiver.close()
            return tried[-1]

        with monkeypatch.context() as patch:
            patch.setattr(presence, "_locked", noted)
            assert (await exported(engine))[1].events == 3
        assert (tried[0], tried[-1]) == (False, True)
        monkeypatch.setattr(presence, "_PATIENCE", 0.0)
        with pytest.raises(LogUnavailable, match="somebody has been archiving this log for 0 s; export once that has"):
            await exported(engine)


async def test_a_stream_that_went_on_after_it_was_written_stays_whole(
    database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await some_runs(database_url)
    async with opened(database_url) as engine, running(engine) as appender:
        version, hash_ = rows(
            database_url, "select version, hash from perdure.events where stream = %s order by 1", [ids["done"]]
        )[-1]
        session, original = Session(engine), export
        await moving.removable(session)

        async def export_then_more(*arguments: Any, **named: Any) -> Any:
            done = await original(*arguments, **named)
            await appender.append(Append(ids["done"], Head(version, hash_), new_stream(1).events))
            return done

        monkeypatch.setattr(moving, "export", export_then_more)
        moved = await moving.move(engine, session, [ids["done"], ids["failed"]], folder)
        await session.close()
    assert moved.streams == 1
    assert len(story(database_url, ids["done"])) == 6
    assert story(database_url, ids["failed"]) == ["StreamArchived"]
    await is_whole(database_url)


@pytest.mark.parametrize("damage", ["cut", "changed"])
async def test_a_file_that_cannot_be_read_back_removes_nothing(
    database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    ids = await some_runs(database_url)

    def damaged(path: Path) -> Any:
        whole = gzip.decompress(path.read_bytes())
        bad = whole[: len(whole) // 2] if damage == "cut" else whole.replace(MARK.encode(), MARK.encode().upper())
        path.write_bytes(gzip.compress(bad))
        return heads(path)

    monkeypatch.setattr(moving, "heads", damaged)
    with pytest.raises(TransferRefused):
        await archive(database_url, folder)
    assert len(story(database_url, ids["done"])) == 5
    assert rows(database_url, "select count(*) from perdure.archived") == [(0,)]


async def test_killed_at_any_moment_nothing_is_lost_and_a_repeat_completes(
    forks: ForkServer, database_url: str, folder: Path
) -> None:
    seed = random.randrange(10**9)
    print("seed", seed)
    chance = random.Random(seed)
    async with app_on(database_url).node() as app:
        await app.register(OTHER)
        runs = [await app.start("other", {"mark": f"run {n}"}) for n in range(40)]
        for run in runs:
            await run.result(timeout=20)
        await fill(database_url)
        behind = "select 1 from perdure.projections where position < (select max(position) from perdure.events)"
        await until(lambda: not rows(database_url, behind))
    everything = set(rows(database_url, "select stream, version, hash from perdure.events where version <= 5"))
    # Longer and longer, so that on any machine some kills come before its work, some into it.
    kills, most = 0, 0.03
    while len(story(database_url, runs[-1].run_id)) > 1:
        most *= 1.3
        child = forks.fork(lives.archiver, url=database_url, folder=str(folder), streams=2)
        if not await asyncio.to_thread(child.has_ended, chance.uniform(0.7, 1.0) * most):
            child.kill()
            kills += 1
        there = set(rows(database_url, "select stream, version, hash from perdure.events"))
        filed = {
            (entry.event.stream, entry.event.version, entry.event.hash)
            for file in folder.glob("*.jsonl.gz")
            for entry in entries(file)
        }
        assert everything <= there | filed
    assert kills
    for run in runs:
        assert story(database_url, run.run_id) == ["StreamArchived"]
    await is_whole(database_url)


async def test_the_file_can_be_imported_into_another_log(database_url: str, folder: Path) -> None:
    ids = await some_runs(database_url)
    (moved,) = await archive(database_url, folder)
    other = f"other_{uuid4().hex}"
    execute(database_url, f"create database {other} template template0")
    url = make_url(database_url).set(database=other).render_as_string(hide_password=False)
    try:
        async with opened(url) as engine:
            await migrate(engine)
            with gzip.open(moved.file, "rb") as file:
                imported = await import_file(engine, file, ImportedWork())  # type: ignore[arg-type]
        assert (imported.events, imported.streams, imported.skipped) == (12, 3, 0)
        assert story(url, ids["done"])[-1] == "RunCompleted"
        await is_whole(url)
    finally:
        execute(database_url, f"drop database {other} with (force)")


async def test_the_file_and_then_the_log_make_the_whole_elsewhere_and_the_file_is_not_taken_back(
    database_url: str, folder: Path
) -> None:
    ids = await some_runs(database_url)
    (moved,) = await archive(database_url, folder)
    packed = gzip.decompress(moved.file.read_bytes())
    async with opened(database_url) as engine, another_log(database_url) as other:
        whole, _ = await exported(engine)
        with pytest.raises(TransferRefused, match="was archived: import first the file that its events went to"):
            await import_lines(other, whole, ImportedWork())
        assert (await import_lines(other, packed, ImportedWork())).events == 12
        await import_lines(other, whole, ImportedWork())
        await is_whole(url_of(other))
        assert story(url_of(other), ids["done"])[-2:] == ["RunCompleted", "StreamArchived"]
        async with app_on(url_of(other)) as app:
            assert (await app.run(ids["done"]).result(timeout=5))["a"].startswith(MARK)
        with pytest.raises(TransferRefused, match="was archived here, and its id is taken for ever"):
            await import_lines(engine, packed, ImportedWork())
    assert story(database_url, ids["done"]) == ["StreamArchived"]


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
async def test_an_archived_run_is_erased_in_its_file(
    database_url: str, folder: Path, tmp_path: Path, encrypted: bool
) -> None:
    settings: dict[str, Any] = {}
    if encrypted:
        new_master_key(tmp_path / "master")
        settings["encryption"] = EncryptionSettings(master_key=tmp_path / "master")
    ids = await some_runs(database_url, **settings)
    async with app_on(database_url, **settings) as app:
        (moved,) = await app.archive(folder, AT_ONCE)
        elsewhere = moved.file.rename(tmp_path / moved.file.name)
        with pytest.raises(ErasureRefused, match=r"was archived, and its file .* is not there: say where"):
            await app.erase(ids["done"])
        assert (MARK.encode() in gzip.decompress(elsewhere.read_bytes())) is not encrypted
        for name, payloads in (("done", 3), ("failed", 3), ("event", 1)):
            assert (await app.erase(ids[name], archive=elsewhere)).payloads == payloads
            assert (await app.erase(ids[name], archive=elsewhere)).payloads == 0
        assert story(database_url, ids["done"]) == ["StreamArchived", "PayloadsErased"]
        if encrypted:
            assert rows(
                database_url, "select count(*) from perdure.keys where stream = %s and wrapped is null", [ids["done"]]
            ) == [(1,)]
    assert MARK.encode() not in gzip.decompress(elsewhere.read_bytes())
    assert len(heads(elsewhere)) == 3
    assert [event.payload for event in events_of(elsewhere, ids["done"])] == [None] * 5
    await is_whole(database_url)


async def test_whole_files_are_read_and_written_beside_the_event_loop(
    database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[Any, threading.Thread] = {}

    def noting(original: Any) -> Any:
        def noted(*arguments: Any) -> Any:
            threads[original] = threading.current_thread()
            return original(*arguments)

        return noted

    monkeypatch.setattr(moving, "heads", noting(heads))
    monkeypatch.setattr(erasure, "erase_in", noting(erase_in))
    ids = await some_runs(database_url)
    async with app_on(database_url) as app:
        await app.archive(folder, AT_ONCE)
        assert (await app.erase(ids["done"])).payloads == 3
    assert threads.keys() == {heads, erase_in}
    assert threading.current_thread() not in threads.values()


@pytest.mark.parametrize("moved", ["the run", "the request", "both"])
async def test_a_run_that_was_asked_for_in_sql_is_erased_wherever_it_and_the_request_are(
    database_url: str, folder: Path, moved: str
) -> None:
    every: dict[str, dict[str, Any]] = {"the run": {"workflow": "w"}, "the request": {"limit": 1}, "both": {}}
    async with app_on(database_url).node() as app:
        await app.register(WORKFLOW)
        asked = "select perdure.start('w', json_build_object('mark', %s::text))"
        run = rows(database_url, asked, [MARK])[0][0]
        await app.run(run).result(timeout=10)
        await fill(database_url)
        await views_are_kept_up(database_url)
    (file,) = [each.file for each in await archive(database_url, folder, **every[moved])]
    assert len(heads(file)) == (2 if moved == "both" else 1)
    async with app_on(database_url) as app:
        assert [(await app.erase(run)).payloads for _ in range(2)] == [4, 0]
    assert MARK.encode() not in gzip.decompress(file.read_bytes())
    assert found_in(database_url, MARK) == []
    await is_whole(database_url)


async def test_what_is_archived_while_it_is_erased_is_erased_in_its_file(
    database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, moved, erase = await some_runs(database_url), list[Moved](), Keeper.erase

    async def archived_first(self: Keeper, *arguments: Any) -> Any:
        moved.extend(await archive(database_url, folder))
        return await erase(self, *arguments)

    monkeypatch.setattr(Keeper, "erase", archived_first)
    async with app_on(database_url) as app:
        assert (await app.erase(ids["done"])).payloads == 3
    assert [event.payload for event in events_of(moved[0].file, ids["done"])] == [None] * 5
    assert story(database_url, ids["done"]) == ["StreamArchived", "PayloadsErased"]
    await is_whole(database_url)


async def test_a_file_that_never_held_the_run_is_not_taken_for_its_archive(
    database_url: str, folder: Path, tmp_path: Path
) -> None:
    ids = await some_runs(database_url)
    one, two = (await archive(database_url, folder, limit=1))[0].file, (await archive(database_url, folder))[0].file
    run, other = (ids["done"], two) if ids["done"] in heads(one) else (ids["done"], one)
    mine = one if other is two else two
    mine.rename(tmp_path / "elsewhere")
    async with app_on(database_url) as app:
        with pytest.raises(ErasureRefused, match=r"was archived in .*, and .* holds nothing of it"):
            await app.erase(run, archive=other)
    assert story(database_url, run) == ["StreamArchived"]


async def test_views_folded_anew_beside_the_archives_are_as_they_were(database_url: str, folder: Path) -> None:
    await some_runs(database_url)
    before = views(database_url)
    files = [(await archive(database_url, folder, limit=1))[0].file, (await archive(database_url, folder))[0].file]
    execute(database_url, "truncate perdure.runs, perdure.tasks")
    async with opened(database_url) as engine, raw_connection(engine) as connection, connection.transaction():
        await connection.execute("set local search_path to perdure")
        assert await beside_archives(connection, files) == 12
        for first in range(0, 700, 50):
            for projection in BUILTIN:
                await projection.apply(connection, first, first + 50)
    assert views(database_url) == before


async def test_the_commands(database_url: str, folder: Path, tmp_path: Path) -> None:
    ids = await some_runs(database_url)
    settings = {"PERDURE_DATABASE_URL": database_url}
    run = str(ids["failed"])
    none = command(tmp_path, "archive", "--older-than", "90d", "--to", "archive", **settings)
    assert (none.status, none.out, "nothing was archived that old" in none.err) == (0, "", True)
    await asyncio.sleep(1)
    done = command(tmp_path, "archive", "--older-than", "1s", "--to", "archive", "--json", **settings)
    (line,) = done.lines
    file = Path(line["file"])
    assert (done.status, line["streams"], line["events"], file.parent) == (0, 3, 12, folder)
    shown = command(tmp_path, "show", run, "--json", **settings).lines[0]
    assert (shown["error"], shown["archived"], shown["input"]) == ("a failed", file.name, {"mark": f"fail {MARK}"})
    history = command(tmp_path, "history", run, "--json", **settings).lines
    assert [event["type"] for event in history][-2:] == ["RunFailed", "StreamArchived"]
    moved = file.rename(tmp_path / "elsewhere.gz")
    lost = command(tmp_path, "show", run, **settings)
    assert (lost.status, f"its file {file} is not there: say --archive FILE" in lost.err) == (2, True)
    found = command(tmp_path, "show", run, "--archive", str(moved), **settings)
    assert (found.status, f"archived in {file.name}" in found.out) == (0, True)
    wrong = command(tmp_path, "archive", "--older-than", "soon", "--to", "archive", **settings)
    assert (wrong.status, "--older-than:" in wrong.err) == (2, True)

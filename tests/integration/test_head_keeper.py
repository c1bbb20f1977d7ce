"""Heads are signed by one process at a time, published outside of the database, and never for a log that was forked."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from logs import new_stream, opened, rows, running, superuser, tamper
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore import outlets
from perdure_eventstore.feed import Feed
from perdure_eventstore.head_keeper import ForkedLog, HeadKeeper, Signed
from perdure_eventstore.heads import is_signed_by, read_note, sign, split_notes
from perdure_eventstore.merkle import CompactRange, leaf_data, leaf_hash
from perdure_eventstore.outlets import HeadCommand, HeadFile, Outlet, PublishingFailed
from perdure_eventstore.tables import heads as heads_table

pytestmark = pytest.mark.every_postgres

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with opened(database_url) as engine:
        await append(engine, 300)
        yield engine


async def append(engine: AsyncEngine, events: int) -> None:
    async with running(engine) as appender:
        await appender.append(new_stream(events))


async def signed(engine: AsyncEngine, *outlets: Outlet, mark: int = 2**40) -> Signed:
    keeper = HeadKeeper(engine, "perdure", KEY, outlets)
    try:
        return await keeper.sign(mark)
    finally:
        await keeper.close()


def root_of(url: str) -> bytes:
    tree = CompactRange()
    for position, hash_ in rows(url, "select position, hash from perdure.events order by position"):
        tree.append(leaf_hash(leaf_data(position, hash_)))
    return tree.root


async def test_a_head_is_signed_kept_and_published(database_url: str, engine: AsyncEngine, tmp_path: Path) -> None:
    file = HeadFile(tmp_path / "heads")
    first = await signed(engine, file)
    assert (first.new, first.head.size, first.head.position) == (True, 300, 300)
    assert first.head.root == root_of(database_url)
    assert is_signed_by(first.note, KEY.public_key())
    again = await signed(engine, file)
    assert again == first._replace(new=False)
    await append(engine, 300)
    second = await signed(engine, file)
    assert second.head.root == root_of(database_url)
    assert list(split_notes((tmp_path / "heads").read_text())) == [first.note, second.note]
    columns = ", ".join(column.name for column in heads_table.columns)
    assert rows(database_url, f"select {columns} from perdure.heads order by size") == [
        (each.head.size, each.head.position, each.head.root, each.note, each.head.signed_at) for each in (first, second)
    ]


async def test_an_empty_log_has_no_head(database_url: str) -> None:
    async with opened(database_url) as engine:
        with pytest.raises(Exception, match="the log has no settled event yet: there is nothing to sign"):
            await signed(engine)


async def test_one_process_at_a_time_and_nobody_waits(database_url: str, engine: AsyncEngine) -> None:
    keeper = HeadKeeper(engine, "perdure", KEY)
    with superuser(database_url) as other, other.transaction():
        other.execute("select pg_advisory_xact_lock(hashtextextended('perdure heads of perdure', 0))")
        assert not await keeper.run_once(300)
        assert rows(database_url, "select * from perdure.heads, perdure.tree_chunks") == []
    assert await keeper.run_once(300)
    assert rows(database_url, "select size from perdure.heads") == [(300,)]
    await keeper.close()


async def test_without_a_key_the_tree_is_grown_all_the_same(database_url: str, engine: AsyncEngine) -> None:
    keeper = HeadKeeper(engine)
    assert await keeper.run_once(300)
    await keeper.close()
    assert rows(database_url, "select number from perdure.tree_chunks") == [(0,)]
    assert rows(database_url, "select * from perdure.heads") == []


async def test_eight_keepers_at_once_sign_each_head_once(
    database_url: str, engine: AsyncEngine, tmp_path: Path
) -> None:
    keepers = [HeadKeeper(engine, "perdure", KEY, [HeadFile(tmp_path / "heads")]) for _ in range(8)]
    for size in (300, 301, 302):
        if size > 300:
            await append(engine, 1)
        answers = await asyncio.gather(*(keeper.sign(size) for keeper in keepers))
        assert [answer.new for answer in answers].count(True) == 1
        assert {answer.head.size for answer in answers} == {size}
    for keeper in keepers:
        await keeper.close()
    published = list(split_notes((tmp_path / "heads").read_text()))
    assert [(note,) for note in published] == rows(database_url, "select note from perdure.heads order by size")


FORKS = {
    "an event that was in no chunk yet": "update perdure.events set hash = sha256(hash) where position = 290",
    "a chunk": "update perdure.tree_chunks set root = sha256(root)",
    "the tail cut off": "delete from perdure.events where position > 290",
    "an event in no chunk yet deleted": "delete from perdure.events where position = 270",
}


@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.parametrize("knows", ["the database", "the process", "the file"])
async def test_a_forked_log_is_refused(
    database_url: str, engine: AsyncEngine, tmp_path: Path, fork: str, knows: str
) -> None:
    file = HeadFile(tmp_path / "heads")
    keeper = HeadKeeper(engine, "perdure", KEY, [file] if knows == "the file" else [])
    await keeper.sign(300)
    statements = [FORKS[fork]]
    if knows != "the database":
        statements.append("delete from perdure.heads")
    if knows != "the process":
        await keeper.close()
        keeper = HeadKeeper(engine, "perdure", KEY, [file] if knows == "the file" else [])
    tamper(database_url, *statements)
    before = rows(database_url, "select count(*) from perdure.heads")
    for more in (0, 300):
        if more:
            await append(engine, more)
        with pytest.raises(ForkedLog, match=r"the log does not begin with the 300 events of the head signed at .* UTC"):
            await keeper.sign(2**40)
    await keeper.close()
    assert rows(database_url, "select count(*) from perdure.heads") == before
    if knows == "the file":
        assert len(list(split_notes((tmp_path / "heads").read_text()))) == 1


async def test_another_logs_file_is_refused(engine: AsyncEngine, tmp_path: Path) -> None:
    head = (await signed(engine)).head
    (tmp_path / "heads").write_text(sign(head._replace(origin="perdure/another"), KEY))
    with pytest.raises(ForkedLog, match="published for another log, perdure/another, and this one is perdure/"):
        await signed(engine, HeadFile(tmp_path / "heads"))


async def test_what_a_dead_process_did_not_publish_the_next_one_does(engine: AsyncEngine, tmp_path: Path) -> None:
    note = (await signed(engine)).note
    keeper = HeadKeeper(engine, "perdure", KEY, [HeadFile(tmp_path / "heads")])
    await keeper.run_once(300)
    await keeper.close()
    assert (tmp_path / "heads").read_text() == note


async def test_a_torn_note_spoils_no_other(engine: AsyncEngine, tmp_path: Path) -> None:
    file = HeadFile(tmp_path / "heads")
    first = (await signed(engine, file)).note
    with (tmp_path / "heads").open("a") as torn:
        torn.write("\n" + first[:200])
    assert await file.last() == first
    await append(engine, 1)
    second = (await signed(engine, file)).note
    assert list(split_notes((tmp_path / "heads").read_text())) == [first, second]


async def test_a_foreign_file_is_never_cut(engine: AsyncEngine, tmp_path: Path) -> None:
    (tmp_path / "heads").write_text("something of mine" * 10_000)
    note = (await signed(engine, HeadFile(tmp_path / "heads"))).note
    assert (tmp_path / "heads").read_text() == "something of mine" * 10_000 + "\n\n" + note


async def test_a_command_gets_the_note(engine: AsyncEngine, tmp_path: Path) -> None:
    note = (await signed(engine, HeadCommand(f"cat > '{tmp_path}/got'"))).note
    assert (tmp_path / "got").read_text() == note


async def test_a_command_that_fails_says_why_and_is_tried_again(
    database_url: str, engine: AsyncEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = HeadCommand(f"test -e '{tmp_path}/ready' || {{ echo no network >&2; exit 3; }}; cat > '{tmp_path}/got'")
    with pytest.raises(PublishingFailed, match=r"ended with status 3: no network$"):
        await signed(engine, command)
    keeper = HeadKeeper(engine, "perdure", KEY, [command])
    assert await keeper.run_once(300)
    assert "a head was not published, it is tried again" in capsys.readouterr().out
    (tmp_path / "ready").touch()
    assert await keeper.run_once(300)
    await keeper.close()
    assert (tmp_path / "got").read_text() == rows(database_url, "select note from perdure.heads")[0][0]


async def test_a_command_that_hangs_is_killed(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlets, "_PATIENCE", 0.3)
    with pytest.raises(PublishingFailed, match=r"was not done within 0.3 s"):
        await signed(engine, HeadCommand(f"sleep 1; touch '{tmp_path}/late'"))
    await asyncio.sleep(1.2)
    assert not (tmp_path / "late").exists()


async def test_a_file_that_cannot_be_written_is_named(engine: AsyncEngine, tmp_path: Path) -> None:
    with pytest.raises(PublishingFailed, match=r"heads could not be|could not be written to .*missing/heads: No such"):
        await signed(engine, HeadFile(tmp_path / "missing" / "heads"))
    with pytest.raises(PublishingFailed, match=r"cannot be read: Is a directory"):
        await signed(engine, HeadFile(tmp_path))


async def test_it_follows_the_log_by_itself_and_survives_a_lost_connection(
    database_url: str, engine: AsyncEngine, tmp_path: Path
) -> None:
    feed = Feed(engine, interval=0.02)
    keeper = HeadKeeper(engine, "perdure", KEY, [HeadFile(tmp_path / "heads")])
    work = [asyncio.create_task(feed.run()), asyncio.create_task(keeper.run(feed, 0.02))]

    async def published(size: int) -> None:
        async with asyncio.timeout(10):
            while not (last := await HeadFile(tmp_path / "heads").last()) or read_note(last).size != size:
                await asyncio.sleep(0.01)

    await published(300)
    with superuser(database_url) as other:
        other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    await append(engine, 10)
    await published(310)
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)


async def test_a_log_that_does_not_grow_costs_nothing(database_url: str, engine: AsyncEngine) -> None:
    feed = Feed(engine, interval=60)
    feed.mark = 300
    keeper = HeadKeeper(engine, "perdure", KEY)
    work = asyncio.create_task(keeper.run(feed, 0.01))
    async with asyncio.timeout(10):
        while not rows(database_url, "select * from perdure.heads"):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    query = "select state_change from pg_stat_activity where query ilike 'commit' and state = 'idle'"
    with psycopg.connect(database_url, autocommit=True) as watching:
        before = watching.execute(query).fetchall()
        await asyncio.sleep(0.3)
        assert before == watching.execute(query).fetchall() != []
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)

"""The key stores: what was kept stands, the first to come wins, and what was destroyed never comes back."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import lives
import orjson
import pytest
from acceptance.forks import ForkServer, fork_server
from logs import execute, opened, rows

from perdure_eventstore.errors import LogUnavailable
from perdure_eventstore.vault.errors import VaultError
from perdure_eventstore.vault.file_store import FileKeyStore
from perdure_eventstore.vault.postgres_store import PostgresKeyStore
from perdure_eventstore.vault.stores import KeyStore

pytestmark = pytest.mark.every_postgres


@pytest.fixture(params=["file", "postgres"])
async def store(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> AsyncIterator[KeyStore]:
    if request.param == "file":
        yield FileKeyStore(tmp_path)
        return
    async with opened(database_url) as engine:
        store = PostgresKeyStore(engine)
        yield store
        await store.close()


async def test_a_key_is_kept_and_the_first_one_stands(store: KeyStore) -> None:
    one, two, other = uuid4(), uuid4(), uuid4()
    assert await store.get([one]) == {}
    assert await store.create({one: b"1"}) == {one: b"1"}
    assert await store.create({one: b"late", two: b"2"}) == {one: b"1", two: b"2"}
    assert await store.get([one, two, other]) == {one: b"1", two: b"2"}


async def test_a_destroyed_key_is_told_from_one_that_never_was_and_never_comes_back(store: KeyStore) -> None:
    one, two, never = uuid4(), uuid4(), uuid4()
    await store.create({one: b"1"})
    for _ in range(2):
        await store.destroy([one, two])
    assert await store.get([one, two, never]) == {one: None, two: None}
    assert await store.create({one: b"again", two: b"again"}) == {one: None, two: None}
    assert await store.replace({one: (b"1", b"again")}) == 0
    assert await store.page(None, 10) == []


async def test_many_keys_at_once(store: KeyStore) -> None:
    keys = {UUID(int=n): b"%d" % n for n in range(1, 2501)}
    assert await store.create(keys) == keys
    assert await store.get(keys) == keys
    paged: dict[UUID, bytes] = {}
    after = None
    while page := await store.page(after, 1000):
        after = page[-1][0]
        paged.update(page)
    assert list(paged.items()) == sorted(keys.items())
    assert await store.replace({stream: (key, key + b"'") for stream, key in keys.items()}) == 2500
    assert await store.replace({UUID(int=1): (b"1", b"late")}) == 0
    assert (await store.get([UUID(int=1)]))[UUID(int=1)] == b"1'"


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("children"), lives.__name__) as server:
        yield server


@pytest.mark.parametrize("kind", ["file", "postgres"])
async def test_processes_that_create_a_key_for_one_stream_at_once_agree_on_it(
    kind: str, database_url: str, tmp_path: Path, forks: ForkServer
) -> None:
    streams = [str(uuid4()) for _ in range(70)]
    start = asyncio.get_running_loop().time() + 0.5
    folder = str(tmp_path) if kind == "file" else ""
    answers = [tmp_path / f"answer-{n}" for n in range(3)]
    children = [
        forks.fork(lives.key_maker, folder=folder, url=database_url, streams=streams, start=start, answer=str(answer))
        for answer in answers
    ]
    for child in children:
        child.wait(60.0)
    found = [orjson.loads(answer.read_bytes()) for answer in answers]
    assert found[0] == found[1] == found[2]
    assert set(found[0]) == set(streams)


async def test_the_file_is_its_owners_alone_and_holds_nothing_of_a_destroyed_key(tmp_path: Path) -> None:
    store, stream = FileKeyStore(tmp_path), uuid4()
    await store.create({stream: b"MARKED" * 20})
    assert b"MARKED" in store.file.read_bytes()
    assert store.file.stat().st_mode & 0o777 == 0o600
    await store.destroy([stream])
    assert b"MARKED" not in store.file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["keys.sqlite3"]


async def test_a_missing_folder_is_no_empty_store(tmp_path: Path) -> None:
    store = FileKeyStore(tmp_path / "keys")
    with pytest.raises(VaultError, match=f"the folder of the key store is missing: {tmp_path / 'keys'}"):
        await store.get([uuid4()])
    assert not (tmp_path / "keys").exists()


async def test_a_damaged_file_and_one_that_is_held_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileKeyStore(tmp_path)
    await store.create({uuid4(): b"1"})
    monkeypatch.setattr("perdure_eventstore.vault.file_store._WAIT", 0.1)
    holder = sqlite3.connect(store.file, isolation_level=None)
    holder.execute("begin exclusive")
    with pytest.raises(LogUnavailable, match="cannot be used: database is locked"):
        await store.get([uuid4()])
    holder.close()
    store.file.write_bytes(b"no database" * 100)
    with pytest.raises(VaultError, match=r"keys\.sqlite3 is damaged"):
        await store.get([uuid4()])


async def test_another_database_gets_its_table_when_it_is_first_used(database_url: str) -> None:
    execute(database_url, "drop schema perdure cascade")
    async with opened(database_url) as engine:
        for _ in range(2):
            store = PostgresKeyStore(engine, "shop")
            await store.make()
            await store.create({UUID(int=1): b"1"})
            await store.close()
    assert rows(database_url, "select wrapped from shop.keys") == [(b"1",)]

"""The tree over the settled log: it grows beside writers, by any number of growers, and has the roots of the RFC."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from logs import execute, new_stream, opened, rows, running, tamper
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.merkle import CompactRange, is_consistent, leaf_data, leaf_hash
from perdure_eventstore.session import Session
from perdure_eventstore.settled import SettledMark
from perdure_eventstore.tree import Extent, Tree, TreeFault

pytestmark = pytest.mark.every_postgres


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with opened(database_url) as engine:
        yield engine


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncIterator[Session]:
    session = Session(engine)
    yield session
    await session.close()


async def append(engine: AsyncEngine, events: int) -> None:
    async with running(engine) as appender:
        for begin in range(0, events, 1000):
            await appender.append(new_stream(min(1000, events - begin)))


def roots(url: str) -> list[bytes]:
    """The root at every size, from the events alone."""
    tree = CompactRange()
    found = [tree.root]
    for position, hash_ in rows(url, "select position, hash from perdure.events order by position"):
        tree.append(leaf_hash(leaf_data(position, hash_)))
        found.append(tree.root)
    return found


def kept(url: str) -> list[Any]:
    return [
        rows(url, f"select * from perdure.{table} order by 1, 2") for table in ("tree_chunks", "tree_nodes", "events")
    ]


async def test_every_size_has_the_root_of_its_events_and_every_event_its_proof(
    database_url: str, engine: AsyncEngine, session: Session
) -> None:
    await append(engine, 700)
    execute(database_url, "select nextval('perdure.events_position_seq') from generate_series(1, 10)")
    await append(engine, 1_200)
    tree, expected = Tree(session), roots(database_url)
    assert await tree.grow(1_910) == Extent(1_900, 1_910)
    assert await tree.kept() == Extent(1_792, 1_802)
    assert [await tree.root_at(size) for size in range(0, 1_901, 37)] == expected[::37]
    events = rows(database_url, "select position, hash from perdure.events order by position")
    for size in (1, 255, 256, 257, 1_792, 1_793, 1_900):
        some = events[:size:17]
        for (position, hash_), proof in zip(some, await tree.inclusions([p for p, _ in some], size), strict=True):
            assert events[proof.index] == (position, hash_)
            assert proof.root(hash_) == expected[size]
    for old in range(1, 1_900, 61):
        path = await tree.consistency(old, 1_900)
        assert is_consistent(old, 1_900, expected[old], expected[1_900], path)


async def test_what_is_not_in_the_tree_has_no_proof(engine: AsyncEngine, session: Session, database_url: str) -> None:
    await append(engine, 300)
    execute(database_url, "select nextval('perdure.events_position_seq')")
    await append(engine, 10)
    tree = Tree(session)
    await tree.grow(311)
    for position in (0, 301, 312):
        with pytest.raises(TreeFault, match=f"the tree of 310 events has none at position {position}"):
            await tree.inclusion(position, 310)
    with pytest.raises(TreeFault, match="the tree of 300 events has none at position 302"):
        await tree.inclusion(302, 300)
    with pytest.raises(TreeFault, match="the log has no 311 settled events"):
        await tree.root_at(311)


async def test_an_empty_log_has_an_empty_tree(session: Session) -> None:
    assert await Tree(session).grow(0) == Extent(0, 0)
    assert await Tree(session).root_at(0) == CompactRange().root


async def test_it_grows_beside_eight_writers(database_url: str, engine: AsyncEngine, session: Session) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    chance, done = random.Random(seed), asyncio.Event()

    async def write(number: int) -> None:
        connection = await psycopg.AsyncConnection.connect(database_url)
        async with connection:
            for _ in range(60):
                await connection.execute(
                    """insert into perdure.events
                        (recorded_at, stream, version, schema_version, id, type, data, metadata, hash)
                    select now(), gen_random_uuid(), 1, 1, gen_random_uuid(), 'Happened', '{}', '{}',
                        sha256(uuid_send(gen_random_uuid())) from generate_series(1, %s)""",
                    (chance.randint(1, 40),),
                )
                await asyncio.sleep(chance.random() * 0.02)
                await (connection.rollback() if chance.random() < 0.3 else connection.commit())

    async def grow() -> None:
        own = Session(engine)
        mark, tree = SettledMark(own), Tree(own)
        try:
            while not done.is_set():
                await tree.grow(await mark.advance())
                await asyncio.sleep(chance.random() * 0.01)
        finally:
            await own.close()

    growing = [asyncio.create_task(grow()) for _ in range(2)]
    await asyncio.gather(*(write(number) for number in range(8)))
    done.set()
    await asyncio.gather(*growing)
    tree = Tree(session)
    extent = await tree.grow(2**62)
    expected = roots(database_url)
    assert extent.size == len(expected) - 1 > 5_000
    assert await tree.root_at(extent.size) == expected[-1]
    before = kept(database_url)
    for proof in await tree.inclusions([event[0] for event in before[2][::50]], extent.size):
        assert before[2][proof.index][0] == proof.position


async def test_two_that_grow_at_once_keep_what_one_would(
    database_url: str, engine: AsyncEngine, session: Session
) -> None:
    await append(engine, 20_000)
    others = [Session(engine) for _ in range(3)]
    extents = await asyncio.gather(*(Tree(each).grow(20_000) for each in (*others, session)))
    assert extents == [Extent(20_000, 20_000)] * 4
    assert await Tree(session).root_at(20_000) == roots(database_url)[-1]
    assert [len(table) for table in kept(database_url)[:2]] == [78, 78 // 2 + 78 // 4 + 78 // 8 + 78 // 16 + 2 + 1]
    for each in others:
        await each.close()


@pytest.mark.parametrize("table", ["tree_chunks", "tree_nodes"])
async def test_a_row_that_is_not_what_the_log_gives_stops_the_growing(
    database_url: str, engine: AsyncEngine, session: Session, table: str
) -> None:
    await append(engine, 600)
    await Tree(session).grow(600)
    if table == "tree_chunks":
        forged = "update perdure.tree_chunks set root = sha256(root) where number = 1"
        sentence = r"chunk 1 of the tree \(positions 257 to 512\) is not what the log gives: run `perdure verify`"
    else:
        forged = "update perdure.tree_nodes set hash = sha256(hash)"
        sentence = "node 0 of level 9 of the tree is not what its chunks give"
    tamper(database_url, forged)

    class Behind(Tree):
        """One that has looked before another one grew."""

        async def kept(self) -> Extent:
            return Extent(0, 0)

    with pytest.raises(TreeFault, match=sentence):
        await Behind(session).grow_once(600)


@pytest.mark.parametrize("table", ["identity", "tree_chunks", "tree_nodes", "heads"])
async def test_nothing_of_it_can_be_changed(
    database_url: str, engine: AsyncEngine, session: Session, table: str
) -> None:
    await append(engine, 600)
    await Tree(session).grow(600)
    for session_is in ("set session_replication_role = origin", "set session_replication_role = replica"):
        for statement in (f"delete from perdure.{table}", f"truncate perdure.{table}"):
            with pytest.raises(psycopg.Error, match=rf"the log is append-only: .* on perdure.{table} is refused"):
                execute(database_url, session_is, statement)

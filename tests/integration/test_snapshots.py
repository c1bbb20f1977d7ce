"""Snapshots and resting runs: what they spare, and that nothing depends on them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from acceptance.checker import assert_kept
from applications import new_app, recorder, shards, task, tenure_of, until, workflow
from logs import execute, opened, rows
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

import perdure
import perdure_engine.resting as resting_module
from perdure_engine.history import Loaded, load_run
from perdure_engine.identity import shard_of
from perdure_engine.snapshot_taker import SnapshotTaker
from perdure_engine.snapshots import CannotSeal, Snapshots
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

pytestmark = pytest.mark.every_postgres

EVERY = 10
LAST = {"event": "came", "where": "event.payload.last", "within": "1h"}
LATE = task("end", {"all": [*[f"t{n}.completed" for n in range(8)], LAST]}, inputs={"n": "{{events.came.payload.n}}"})
WAITING = workflow("w", *[task(f"t{n}") for n in range(8)], LATE, output="{{tasks.end.output.n}}")


class Fetched(Counter[tuple[UUID, int]]):
    """How often each event of a stream was read by anybody in this process."""

    def of(self, run: UUID) -> int:
        """Events of ``run`` that were read, each time counted."""
        return sum(count for (stream, _), count in self.items() if stream == run)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    counted, original = Fetched(), Reader._fetch

    async def fetch(self: Reader, statement: str, parameters: Any, payloads: bool) -> Any:
        found = await original(self, statement, parameters, payloads)
        counted.update((event.stream, event.version) for event in found)
        return found

    monkeypatch.setattr(Reader, "_fetch", fetch)
    return counted


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[perdure.App]:
    app = new_app(database_url, snapshot_every=EVERY)
    recorder(app)
    async with app:
        await app.register(WAITING)
        yield app


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with opened(database_url) as engine:
        yield engine


def kept(url: str) -> dict[UUID, int]:
    """The snapshots there are: the version of each run's."""
    return dict(rows(url, "select run, version from perdure.snapshots"))


def version(url: str, run: UUID) -> int:
    return int(rows(url, "select count(*) from perdure.events where stream = %s", (run,))[0][0])


async def until_version(url: str, run: UUID, at_least: int) -> None:
    async with asyncio.timeout(10):
        while version(url, run) < at_least:
            await asyncio.sleep(0.005)


async def waiting_run(app: perdure.App, url: str) -> perdure.Run:
    """A run that has done its tasks, has a snapshot, and waits for its last event."""
    run = await app.start("w")
    await until_version(url, run.run_id, 25)
    async with asyncio.timeout(10):
        while kept(url).get(run.run_id, 0) < EVERY:
            await asyncio.sleep(0.005)
    return run


async def folded(engine: AsyncEngine, app: perdure.App, run: UUID, snapshots: Snapshots | None = None) -> Loaded:
    session = Session(engine)
    try:
        return await load_run(Reader(session), app.client.registry, run, snapshots)
    finally:
        await session.close()


async def test_a_run_is_taken_up_from_its_snapshot_and_completes(
    app: perdure.App, engine: AsyncEngine, database_url: str, fetched: Fetched
) -> None:
    async with app.node(views=False):
        run = await waiting_run(app, database_url)
    before = version(database_url, run.run_id)
    fetched.clear()
    async with app.node(views=False):
        await app.publish("came", {"last": True, "n": 7}, run=run.run_id)
        assert await run.result(timeout=10) == 7
    at = [number for (stream, number) in fetched if stream == run.run_id and number <= before]
    assert set(range(1, EVERY + 1)) <= set(at), "one page is read before a snapshot is asked for"
    assert len(at) < before, "and what it holds is not"
    assert_kept(database_url)


async def test_with_a_snapshot_and_without_one_a_run_is_the_same(
    app: perdure.App, engine: AsyncEngine, database_url: str
) -> None:
    async with app.node(views=False):
        run = (await waiting_run(app, database_url)).run_id
    straight = await folded(engine, app, run)
    session = Session(engine)
    snapshots = Snapshots(session, worth=3)
    newest = await snapshots.newest(run, straight.state.definition, 3)
    assert newest is not None
    assert newest.head.version >= EVERY
    loaded = await folded(engine, app, run, snapshots)
    assert loaded[:2] == straight[:2]
    await session.close()


OTHER_STATE = "(select state from perdure.snapshots where run <> '{run}')"


SPOILT: list[tuple[str, str | None]] = [
    ("state = set_byte(state, length(state) / 2, get_byte(state, length(state) / 2) # 1)", "it is damaged"),
    ("state = set_byte(state, 3, get_byte(state, 3) # 128)", "it is damaged"),
    ("state = substring(state from 1 for length(state) - 1)", "it is damaged"),
    ("state = ''", "it is damaged"),
    (f"state = {OTHER_STATE}", "it is damaged"),
    ("format = 'other'", "it was written by other code"),
    ("hash = sha256(hash)", "the run has no event"),
    ("version = version - 1", "the run has no event"),
    ("version = 1000000", "the run has no event 1000000"),
    ("version = 2", None),
]


async def test_a_snapshot_that_is_not_what_was_kept_changes_nothing(
    app: perdure.App, engine: AsyncEngine, database_url: str, subtests: pytest.Subtests
) -> None:
    async with app.node(views=False):
        run = (await waiting_run(app, database_url)).run_id
        other = (await waiting_run(app, database_url)).run_id
    assert other != run
    straight = await folded(engine, app, run)
    execute(database_url, "create table kept as table perdure.snapshots")
    for change, why in SPOILT:
        execute(
            database_url,
            "delete from perdure.snapshots",
            "insert into perdure.snapshots select * from kept",
            f"update perdure.snapshots set {change.format(run=run)} where run = '{run}'",
        )
        session = Session(engine)
        with subtests.test(change), capture_logs() as logs:
            assert (await folded(engine, app, run, Snapshots(session, worth=3)))[:2] == straight[:2]
            said = [line["why"] for line in logs if line["event"] == "a snapshot is not used, the run is folded"]
            assert len(said) == (why is not None)
            assert (why or "") in "".join(said)
        await session.close()


async def test_a_snapshot_is_gone_with_its_run(app: perdure.App, engine: AsyncEngine, database_url: str) -> None:
    async with app.node(views=False):
        run = await waiting_run(app, database_url)
        open_run = await waiting_run(app, database_url)
        await app.publish("came", {"last": True, "n": 1}, run=run.run_id)
        await run.result(timeout=10)
        async with asyncio.timeout(10):
            while run.run_id in kept(database_url):
                await asyncio.sleep(0.01)
    assert kept(database_url).keys() == {open_run.run_id}
    # What a node left that died before it could: swept. An ended run's is not kept in the first place.
    execute(
        database_url,
        f"insert into perdure.snapshots select '{uuid4()}', 1, '', '', '' from generate_series(1, 1)",
    )
    session = Session(engine)
    snapshots = Snapshots(session)
    assert await snapshots.sweep() == 1
    ended = await folded(engine, app, run.run_id)
    assert await snapshots.keep(ended.state, ended.head)
    assert kept(database_url).keys() == {open_run.run_id}
    await snapshots.delete(open_run.run_id)
    await session.close()
    assert kept(database_url) == {}


class Sealed:
    """A sealing whose key can be lost."""

    lost = False

    async def seal(self, run: UUID, text: bytes) -> bytes:
        return run.bytes + bytes(byte ^ 0x55 for byte in text)

    async def unseal(self, run: UUID, text: bytes) -> bytes:
        if self.lost:
            raise CannotSeal("its key was destroyed")
        assert text.startswith(run.bytes)
        return bytes(byte ^ 0x55 for byte in text[16:])


async def test_a_snapshot_is_sealed_and_useless_without_the_key(
    app: perdure.App, engine: AsyncEngine, database_url: str
) -> None:
    async with app.node(views=False):
        run = (await waiting_run(app, database_url)).run_id
    straight, session, sealing = await folded(engine, app, run), Session(engine), Sealed()
    snapshots = Snapshots(session, worth=3, sealing=sealing)
    await snapshots.keep(straight.state, straight.head)
    newest = await snapshots.newest(run, straight.state.definition, 3)
    assert newest is not None
    assert newest.state == straight.state
    [(state,)] = rows(database_url, "select state from perdure.snapshots")
    assert bytes(state)[32:48] == run.bytes
    sealing.lost = True
    with capture_logs() as logs:
        assert (await folded(engine, app, run, snapshots))[:2] == straight[:2]
    assert [line["why"] for line in logs] == ["its key was destroyed"]
    await session.close()


async def test_no_snapshots_are_taken_where_none_are_wanted(database_url: str) -> None:
    app = new_app(database_url, snapshot_every=0)
    recorder(app)
    async with app.node(views=False):
        await app.register(WAITING)
        run = await app.start("w")
        await until_version(database_url, run.run_id, 25)
        await asyncio.sleep(0.2)
    assert kept(database_url) == {}


async def test_a_waiting_run_reached_by_100_events_reads_each_of_its_events_a_few_times_at_most(
    database_url: str, fetched: Fetched
) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        await app.register(WAITING)
        run = await app.start("w")
        await until_version(database_url, run.run_id, 25)
        result = asyncio.create_task(run.result(timeout=300))
        watching = asyncio.create_task(_watch(new_app(database_url), run.run_id))
        for n in range(100):
            before = version(database_url, run.run_id)
            await app.publish("came", {"last": n == 99, "n": n}, run=run.run_id)
            await until_version(database_url, run.run_id, before + 1)
        assert await result == 99
        assert await watching == 99
    total = version(database_url, run.run_id)
    assert total > 125
    assert fetched.of(run.run_id) <= 4 * total
    assert max(count for (stream, _), count in fetched.items() if stream == run.run_id) <= 4
    assert_kept(database_url)


async def _watch(other: perdure.App, run: UUID) -> Any:
    """Wait for the run in a program that does not execute it."""
    async with other:
        return await other.run(run).result(timeout=300)


async def test_of_the_runs_that_rest_no_more_are_remembered_than_there_is_room_for(
    database_url: str, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resting_module.Resting.__init__, "__defaults__", (2, resting_module.MOST_BYTES))
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        await app.register(WAITING)
        runs = [await app.start("w") for _ in range(4)]
        for run in runs:
            await until_version(database_url, run.run_id, 25)
        assert app.client.node is not None
        assert app.client.node.tenure is not None
        resting = app.client.node.tenure.holder.resting
        async with asyncio.timeout(10):
            while len(resting) < 2:
                await asyncio.sleep(0.01)
        for n, run in enumerate(runs):
            await app.publish("came", {"last": False, "n": n}, run=run.run_id)
            await app.publish("came", {"last": True, "n": n}, run=run.run_id)
        assert [await run.result(timeout=10) for run in runs] == [0, 1, 2, 3]
        assert len(resting) <= 2
    assert_kept(database_url)


async def test_of_a_run_that_was_handed_over_the_old_node_takes_no_snapshot(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(taker: SnapshotTaker) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(SnapshotTaker, "run", never)
    first, second = [new_app(database_url, snapshot_every=EVERY, concurrency=300) for _ in range(2)]
    for app in (first, second):
        recorder(app)
        recorder(app, "long", seconds=60)
    last = task("end", {"all": [f"t{n}.completed" for n in range(8)]}, type="long")
    async with first.node(views=False):
        await first.register(workflow("w", *[task(f"t{n}") for n in range(8)], last))
        # The quietest shards go first: none is to be without a run.
        runs = [(await first.start("w")).run_id for _ in range(150)]
        begun = "select count(*) from perdure.events where type = 'TaskStarted' and data ->> 'task_id' = 'end'"
        await until(lambda: rows(database_url, begun) == [(len(runs),)])
        tenure = tenure_of(first)
        assert tenure._taker._due.keys() == set(runs)
        async with second.node(views=False):
            await until(lambda: sorted(map(len, shards(database_url).values())) == [32, 32])
            mine = {run for run in runs if shard_of(run) in tenure.leases.shards}
            await until(lambda: {held.run_id for held in tenure.holder.held(lambda _: True)} == mine)
            while tenure._taker._due:
                await tenure._taker.run_once()
            assert 0 < len(mine) < len(runs)
            assert kept(database_url).keys() == mine

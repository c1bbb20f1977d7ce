"""Postgres dies under load: -9 to the server itself, backends ended at random, a database that is not there."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from acceptance.checker import Told, assert_kept
from applications import new_app, task, until, workflow
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

import perdure
from perdure.embedded import EmbeddedPostgres
from perdure.migrate import migrate
from perdure_eventstore.database import open_engine
from perdure_eventstore.errors import LogUnavailable, SchemaMissing

RUNS = 50


class Server:
    """A Postgres of the test's own, that can be killed."""

    def __init__(self, folder: Path) -> None:
        self._embedded = EmbeddedPostgres(folder)
        self.url = self._embedded.acquire()

    def kill(self) -> None:
        """End every process of it with -9, the first one first."""
        pid = self._embedded.status().pid
        assert pid is not None
        backends = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        os.kill(pid, signal.SIGKILL)
        for backend in backends:
            with suppress(ProcessLookupError):
                os.kill(backend, signal.SIGKILL)

    def start(self) -> None:
        assert self._embedded.acquire() == self.url

    def stop(self) -> None:
        self._embedded.release()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


class Load:
    """Runs that are started, published, and waited for, with note of everything that was acknowledged."""

    def __init__(self, url: str) -> None:
        self.app = new_app(url, lease=1.0, patience=20.0, concurrency=40)
        self.published: dict[UUID, Any] = {}
        self.runs: list[perdure.Run] = []
        self.outputs: list[tuple[UUID, str, Any]] = []

        @self.app.task()
        async def work(n: int) -> str:
            await asyncio.sleep(0.02)
            return f"{n} {uuid4()}"

        @self.app.task()
        async def book(task: perdure.Task, connection: AsyncConnection, n: int) -> str:
            token = str(uuid4())
            row = {"run": task.run_id, "token": token}
            await connection.execute(text("insert into public.ledger values (:run, :token)"), row)
            return token

    @property
    def told(self) -> Told:
        return Told(self.published, [run.run_id for run in self.runs], self.outputs)

    async def prepare(self) -> None:
        async with self.app.database.begin() as connection:
            await connection.execute(text("create table public.ledger (run uuid, token text)"))
        more = [task(f"t{n}", f"t{n - 1}.completed", inputs={"n": "{{n}}"}) for n in range(1, 4)]
        paid = {"all": ["t3.completed", {"event": "paid", "where": "event.payload.n == input.n", "within": "1h"}]}
        await self.app.register(
            workflow(
                "load",
                task("t0", "began", inputs={"n": "{{n}}"}),
                *more,
                task("book", paid, type="book", inputs={"n": "{{n}}"}, retry=False),
            )
        )

    async def publish(self, event: str, n: int) -> perdure.Published:
        published = await self.app.publish(event, {"n": n})
        self.published[published.event_id] = {"n": n}
        return published

    async def one(self, n: int) -> None:
        """Start a run by an event, give it the second one, wait for its end."""
        published = await self.publish("began", n)
        (run,) = await patiently(published)
        self.runs.append(run)
        await self.publish("paid", n)
        result = await patiently_result(run)
        self.outputs += [(run.run_id, task_id, output) for task_id, output in result.items()]

    async def check(self, url: str) -> None:
        assert len(self.outputs) == len(self.runs) * 5
        # The second events went to every run that waited, and are ignored by all but one.
        await until(lambda: not inbox(url))
        rows = ledger(url)
        assert rows == {run: token for run, task_id, token in self.outputs if task_id == "book"}
        assert_kept(url, self.told)


async def patiently(published: perdure.Published) -> list[perdure.Run]:
    """Readers are not patient: who asks while the database is away is told so, and asks again."""
    while True:
        try:
            return await published.runs()
        except LogUnavailable:
            await asyncio.sleep(0.05)


async def patiently_result(run: perdure.Run) -> dict[str, Any]:
    while True:
        try:
            result: dict[str, Any] = await run.result(timeout=40)
        except LogUnavailable:
            await asyncio.sleep(0.05)
        else:
            return result


def inbox(url: str) -> list[Any]:
    """What has not been handed to its run yet."""
    with psycopg.connect(url) as connection:
        return connection.execute("select id, run, kind, event from perdure.inbox").fetchall()


def ledger(url: str) -> dict[UUID, str]:
    """The exactly-once rows; fails if a run has two."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("select run, token from public.ledger").fetchall()
    assert len(rows) == len({run for run, _ in rows})
    return dict(rows)


async def migrated(url: str) -> None:
    engine = open_engine(url)
    await migrate(engine)
    await engine.dispose()


@pytest.fixture
async def load(server: Server) -> AsyncIterator[Load]:
    await migrated(server.url)
    load = Load(server.url)
    async with load.app.node():
        await load.prepare()
        yield load


async def test_postgres_killed_under_load_and_restarted_the_same_node_rides_it_out(server: Server, load: Load) -> None:
    assert load.app.client.node is not None
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    working = [asyncio.create_task(load.one(n)) for n in range(RUNS)]
    for _ in range(2):
        await asyncio.sleep(chance.uniform(0.05, 0.4))
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(chance.uniform(0.0, 1.5))
        await asyncio.to_thread(server.start)
    await asyncio.gather(*working)
    await load.check(server.url)


async def test_backends_ended_at_random_under_load_cost_nothing_but_time(server: Server, load: Load) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, ended, until_when = random.Random(seed), 0, time.monotonic() + 8
    working, count = set[asyncio.Task[None]](), 0
    async with await psycopg.AsyncConnection.connect(server.url, autocommit=True) as killer:
        while time.monotonic() < until_when:
            while len(working) < 20:
                working.add(asyncio.create_task(load.one(count)))
                count += 1
            rows = await killer.execute(
                "select pid from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()"
            )
            victims = [pid for (pid,) in await rows.fetchall()]
            for pid in chance.sample(victims, min(len(victims), chance.randrange(3))):
                await killer.execute("select pg_terminate_backend(%s)", (pid,))
                ended += 1
            await asyncio.sleep(chance.uniform(0.0, 0.1))
            for done in [each for each in working if each.done()]:
                await done
                working.discard(done)
    await asyncio.gather(*working)
    print(f"{ended} backends ended, {len(load.runs)} runs")
    assert ended > 50
    await load.check(server.url)


async def test_publish_says_so_when_the_database_is_gone_and_leaves_nothing_half(server: Server) -> None:
    await migrated(server.url)
    app = new_app(server.url, patience=1.0)
    async with app:
        before = await app.publish("before", 1)
        await asyncio.to_thread(server.kill)
        began = time.monotonic()
        answers = await asyncio.gather(*(app.publish("during", n) for n in range(5)), return_exceptions=True)
        assert 0.9 < time.monotonic() - began < 6
        for answer in answers:
            assert isinstance(answer, LogUnavailable)
            assert str(answer).startswith("the database cannot be reached: "), str(answer)
        await asyncio.to_thread(server.start)
        after = await app.publish("after", 2)
    history = assert_kept(server.url, Told({before.event_id: 1, after.event_id: 2}), at_rest=False)
    assert len(history.events) == 2


async def test_a_node_whose_database_is_gone_stops_within_bounds(server: Server) -> None:
    await migrated(server.url)
    app = new_app(server.url, lease=0.5)
    began = asyncio.Event()

    @app.task()
    async def work() -> None:
        began.set()
        await asyncio.sleep(30)

    async with app.node():
        await app.register(workflow("w", task("a")))
        run = await app.start("w")
        await began.wait()
        await asyncio.to_thread(server.kill)
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 15
    await asyncio.to_thread(server.start)
    async with app.node():
        await until(lambda: "TaskInterrupted" in str(assert_kept(server.url, at_rest=False).events))
        assert await run.status() == "open"


async def test_a_database_that_is_not_there_at_the_start_is_a_sentence(server: Server) -> None:
    await asyncio.to_thread(server.kill)
    app = new_app(server.url)
    for opened in (app, app.node()):
        with pytest.raises(LogUnavailable, match=r"^the database cannot be reached: "):
            async with opened:
                pass
    await asyncio.to_thread(server.start)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("drop schema perdure cascade", "has no schema 'perdure' of Perdure's; run `perdure migrate`"),
        (
            "update perdure.alembic_version set version_num = '9999'",
            "newer than this Perdure knows; upgrade the package",
        ),
        ("delete from perdure.alembic_version", "run `perdure migrate`"),
    ],
    ids=["none", "newer", "older"],
)
async def test_a_schema_of_another_version_is_a_sentence(database_url: str, change: str, said: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(change.encode())
    app = new_app(database_url)
    for opened in (app, app.node()):
        with pytest.raises(SchemaMissing) as refused:
            async with opened:
                pass
        assert said in str(refused.value)

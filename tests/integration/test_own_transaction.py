"""Publish, start and cancel in the caller's own transaction, through every face: they commit or vanish with it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg
import pytest
from applications import new_app, recorder, task, workflow
from logs import execute, opened, rows
from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

import perdure
from perdure.errors import NotConnected, StartRefused, WrongConnection
from perdure.migrate import migrate
from perdure_engine.history import UnknownRun
from perdure_engine.registry import UnknownWorkflow
from perdure_eventstore.database import raw_connection
from perdure_eventstore.errors import SchemaMissing
from perdure_eventstore.verify import verify

pytestmark = pytest.mark.every_postgres

ONE = workflow("one", task("a", "began"))
KEYED = workflow("keyed", task("a", "began", inputs={"n": "{{n}}"}), key="{{event.payload.id}}")
WAITS = workflow("waits", task("a", "began"), task("b", {"all": ["a.completed", {"event": "came", "within": "1h"}]}))


class Face(NamedTuple):
    """A connection of some kind: what is handed in, and how its owner works with it."""

    given: Any
    execute: Callable[[str], Any]
    commit: Callable[[], Any]
    rollback: Callable[[], Any]


class Django:
    """What Perdure uses of ``django.db.connection``."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection: psycopg.Connection[Any] | None = None
        self._driver = connection

    def ensure_connection(self) -> None:
        self.connection = self._driver


def sqlalchemy_url(url: str) -> Any:
    return make_url(url).set(drivername="postgresql+psycopg")


@contextmanager
def sync_face(kind: str, url: str) -> Iterator[Face]:
    if kind in ("psycopg", "django"):
        with psycopg.connect(url) as raw:
            given = raw if kind == "psycopg" else Django(raw)
            yield Face(given, lambda sql: raw.execute(sql.encode()), raw.commit, raw.rollback)
        return
    engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
    if kind == "connection":
        with engine.connect() as connection:
            yield Face(connection, connection.exec_driver_sql, connection.commit, connection.rollback)
        return
    session: Any = scoped_session(sessionmaker(engine)) if kind == "scoped" else Session(engine)
    try:
        yield Face(session, lambda sql: session.connection().exec_driver_sql(sql), session.commit, session.rollback)
    finally:
        session.close()


@asynccontextmanager
async def async_face(kind: str, url: str) -> AsyncIterator[Face]:
    if kind == "psycopg":
        async with await psycopg.AsyncConnection.connect(url) as raw:
            yield Face(raw, lambda sql: raw.execute(sql.encode()), raw.commit, raw.rollback)
        return
    engine = create_async_engine(sqlalchemy_url(url), poolclass=NullPool)
    if kind == "connection":
        async with engine.connect() as connection:
            yield Face(connection, connection.exec_driver_sql, connection.commit, connection.rollback)
    else:
        one = object()
        session: Any = (
            async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: one)
            if kind == "scoped"
            else AsyncSession(engine)
        )

        async def run(sql: str) -> Any:
            return await (await session.connection()).exec_driver_sql(sql)

        try:
            yield Face(session, run, session.commit, session.rollback)
        finally:
            await session.close()
    await engine.dispose()


SYNC = ["psycopg", "django", "connection", "session", "scoped"]
ASYNC = ["psycopg", "connection", "session", "scoped"]


def published(url: str) -> list[str]:
    """The names of the events in the log, in its order."""
    found = rows(url, "select data ->> 'name' from perdure.events where type = 'EventPublished' order by position")
    return [name for (name,) in found]


def prepare(url: str) -> None:
    execute(url, "create table public.orders (id integer primary key)")


def orders(url: str) -> list[int]:
    return [number for (number,) in rows(url, "select id from public.orders order by 1")]


def order(number: int) -> str:
    return f"insert into public.orders values ({number})"


@pytest.mark.parametrize("kind", SYNC)
def test_what_a_synchronous_program_publishes_commits_or_vanishes_with_its_work(database_url: str, kind: str) -> None:
    prepare(database_url)
    with new_app(database_url).blocking() as client, sync_face(kind, database_url) as face:
        for number, keep in ((1, True), (2, False), (3, True)):
            face.execute(order(number))
            published_ = client.publish(f"placed_{number}", {"n": number}, connection=face.given)
            assert published_.position is None
            face.execute("savepoint nested")
            client.publish("undone", connection=face.given)
            face.execute("rollback to savepoint nested")
            client.publish(f"after_{number}", connection=face.given)
            assert published(database_url) == [] if number == 1 else ["placed_1", "after_1"]
            (face.commit if keep else face.rollback)()
        assert client._opened is None, "a second connection was opened"
    assert orders(database_url) == [1, 3]
    assert published(database_url) == ["placed_1", "after_1", "placed_3", "after_3"]
    assert rows(database_url, "select count(*) from perdure.staged") == [(0,)]


@pytest.mark.parametrize("kind", ASYNC)
async def test_what_an_asynchronous_program_publishes_commits_or_vanishes_with_its_work(
    database_url: str, kind: str
) -> None:
    prepare(database_url)
    app = new_app(database_url)  # never connected
    async with async_face(kind, database_url) as face:
        for number, keep in ((1, True), (2, False), (3, True)):
            await face.execute(order(number))
            published_ = await app.publish(f"placed_{number}", {"n": number}, connection=face.given)
            assert published_.position is None
            await face.execute("savepoint nested")
            await app.publish("undone", connection=face.given)
            await face.execute("rollback to savepoint nested")
            await app.publish(f"after_{number}", connection=face.given)
            await (face.commit if keep else face.rollback)()
    assert orders(database_url) == [1, 3]
    assert published(database_url) == ["placed_1", "after_1", "placed_3", "after_3"]


@pytest.mark.parametrize("kind", SYNC)
def test_a_synchronous_programs_runs_start_and_stop_with_its_commit(database_url: str, kind: str) -> None:
    with new_app(database_url).blocking() as client, sync_face(kind, database_url) as face:
        client.register(ONE, allow_unknown_types=True)
        undone = client.start("one", {"n": 1}, connection=face.given)
        face.rollback()
        kept = client.start("one", {"n": 2}, connection=face.given)
        with pytest.raises(UnknownRun):
            kept.status()
        face.commit()
        assert kept.status() == "open"
        with pytest.raises(UnknownRun):
            undone.status()
        for keep in (False, True):
            client.cancel(kept.run_id, "a change of mind", connection=face.given)
            (face.commit if keep else face.rollback)()
        assert rows(database_url, "select kind, detail from perdure.inbox order by id") == [
            ("started", None),
            ("cancel", {"reason": "a change of mind"}),
        ]


@pytest.mark.parametrize("kind", ASYNC)
async def test_an_asynchronous_programs_runs_start_and_stop_with_its_commit(database_url: str, kind: str) -> None:
    app = new_app(database_url)
    async with app, async_face(kind, database_url) as face:
        await app.register(ONE, allow_unknown_types=True)
        undone = await app.start("one", {"n": 1}, connection=face.given)
        await face.rollback()
        kept = await app.start("one", {"n": 2}, connection=face.given)
        with pytest.raises(UnknownRun):
            await kept.status()
        await face.commit()
        assert await kept.status() == "open"
        with pytest.raises(UnknownRun):
            await undone.status()
        for keep in (False, True):
            await app.cancel(kept.run_id, "a change of mind", connection=face.given)
            await (face.commit if keep else face.rollback)()
        assert rows(database_url, "select kind, detail from perdure.inbox order by id") == [
            ("started", None),
            ("cancel", {"reason": "a change of mind"}),
        ]


async def test_a_connection_in_autocommit_commits_as_with_every_other_statement(database_url: str) -> None:
    app = new_app(database_url)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as raw:
        await app.publish("at_once", connection=raw)
        assert published(database_url) == ["at_once"]
        async with raw.transaction():
            await app.publish("later", connection=raw)
            assert published(database_url) == ["at_once"]
    assert published(database_url) == ["at_once", "later"]


async def test_a_connection_that_does_not_fit_is_refused_with_a_sentence(database_url: str) -> None:
    app = new_app(database_url)
    with psycopg.connect(database_url) as sync, sync_face("connection", database_url) as core, app.blocking() as client:
        kinds: list[tuple[Any, str]] = [
            (sync, "psycopg's Connection"),
            (core.given, "sqlalchemy's Connection"),
            ("x", "builtins's str"),
        ]
        for given, what in kinds:
            with pytest.raises(WrongConnection, match=f"AsyncConnection or AsyncSession.*not {what}"):
                await app.publish("came", connection=given)
        with pytest.raises(WrongConnection, match=r"use app.blocking\(\)"):
            await app.publish("came", connection=sync)  # type: ignore[arg-type]
        async with await psycopg.AsyncConnection.connect(database_url) as raw:
            with pytest.raises(WrongConnection, match="use the app itself"):
                client.publish("came", connection=raw)  # type: ignore[arg-type]
        with pytest.raises(WrongConnection, match="the connection is closed"):
            await app.publish("came", connection=raw)
    for closed in (sync, core.given):
        with pytest.raises(WrongConnection, match="the connection is closed"):
            client.publish("came", connection=closed)
    elsewhere = make_url(database_url).set(database="postgres").render_as_string(hide_password=False)
    for kind in ASYNC:
        async with async_face(kind, elsewhere) as face:
            with pytest.raises(SchemaMissing, match="the database of this connection has no schema 'perdure'"):
                await app.publish("came", connection=face.given)


async def test_what_is_wrong_with_a_wish_is_said_before_anything_is_sent(database_url: str) -> None:
    app = new_app(database_url)
    async with async_face("psycopg", database_url) as face:
        for name, key in (("task_completed", None), ("", None), ("x", "a\nb"), ("x", "k" * 257)):
            with pytest.raises(StartRefused):
                await app.publish(name, key=key, connection=face.given)
        with pytest.raises(perdure.PayloadRefused):
            await app.publish("x", 2**64, connection=face.given)
        with pytest.raises(StartRefused, match="at most 1,000 characters"):
            await app.cancel(uuid4(), "x" * 1001, connection=face.given)
        assert face.given.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


async def test_the_same_event_or_run_again_is_the_first(database_url: str) -> None:
    app, event, run = new_app(database_url), uuid4(), uuid4()
    async with app, async_face("session", database_url) as face:
        await app.register(ONE, allow_unknown_types=True)
        for _ in range(3):
            await app.publish("came", {"n": 1}, event_id=event, connection=face.given)
            assert (await app.start("one", {"n": 1}, run_id=run, connection=face.given)).run_id == run
            await app.start("one", {"n": 1}, run_id=run, connection=face.given)
            await face.commit()
        with pytest.raises(StartRefused, match="started before with another input"):
            await app.start("one", {"n": 2}, run_id=run, connection=face.given)
        await app.publish("came", {"n": 2}, event_id=event, connection=face.given)
        with pytest.raises(Exception, match=f"event {event} was published before with other content"):
            await face.commit()
        await face.rollback()
    assert published(database_url) == ["came"]
    assert rows(database_url, "select count(*) from perdure.events where type = 'RunStarted'") == [(1,)]


async def test_a_run_of_a_keyed_workflow_is_refused_at_once_or_at_commit(database_url: str) -> None:
    app = new_app(database_url)
    async with app, async_face("psycopg", database_url) as face, async_face("psycopg", database_url) as other:
        await app.register(KEYED, allow_unknown_types=True)
        with pytest.raises(StartRefused, match="keeps one open run a key"):
            await app.start("keyed", {"n": 1}, connection=face.given)
        await app.start("keyed", {"n": 1}, key="k", connection=face.given)
        await app.start("keyed", {"n": 1}, key="k", connection=other.given)
        await face.commit()
        with pytest.raises(psycopg.errors.UniqueViolation, match="a run with this key is open; publish an event to it"):
            await other.commit()
        with pytest.raises(StartRefused, match="a run of keyed with the key 'k' is open"):
            await app.start("keyed", {"n": 1}, key="k", connection=face.given)
    assert rows(database_url, "select count(*) from perdure.open_runs") == [(1,)]


async def test_a_run_started_in_the_callers_transaction_is_done_by_a_node(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False), async_face("session", database_url) as face:
        await app.register(WAITS)
        run = await app.start("waits", {"n": 1}, connection=face.given)
        event = await app.publish("came", connection=face.given)
        await face.commit()
        # In the order staged: the event came after the run.
        assert await run.result(timeout=10) == {"a": {}, "b": {}}
        assert [each.run_id for each in await event.runs(timeout=10)] == [run.run_id]
        begun = await app.publish("began", connection=face.given)
        await face.commit()
        (other,) = await begun.runs(timeout=10)
        assert await other.status() == "open"
    async with opened(database_url) as engine, raw_connection(engine) as connection:
        last = [progress async for progress in verify(connection)][-1]
    assert last.fault is None and last.events > 10


async def test_what_comes_of_an_event_is_asked_of_a_connected_app(database_url: str) -> None:
    app = new_app(database_url)
    async with async_face("psycopg", database_url) as face:
        event = await app.publish("came", connection=face.given)
        await face.commit()
    with pytest.raises(NotConnected):
        await event.runs()
    async with app:
        with pytest.raises(TimeoutError):
            await event.runs(timeout=0.01)


async def test_start_again_after_the_workflow_was_retired_or_changed_returns_the_first(database_url: str) -> None:
    app = new_app(database_url)
    async with app:
        await app.register(ONE, allow_unknown_types=True)
        run = await app.start("one", {"n": 1}, run_id=uuid4())
        await app.register({**ONE, "tasks": [task("a", "began"), task("b", "ended")]}, allow_unknown_types=True)
        assert (await app.start("one", {"n": 1}, run_id=run.run_id)).run_id == run.run_id
        await app.retire("one")
        assert (await app.start("one", {"n": 1}, run_id=run.run_id)).run_id == run.run_id
        with pytest.raises(StartRefused, match="started before with another input"):
            await app.start("one", {"n": 2}, run_id=run.run_id)
        with pytest.raises(UnknownWorkflow):
            await app.start("one", {"n": 1}, run_id=uuid4())


async def test_an_app_entered_twice_is_disconnected_by_the_last_one_out(database_url: str) -> None:
    app = new_app(database_url)
    async with app:
        async with app:
            await app.publish("came")
        await app.publish("came")
        await asyncio.gather(*(use(app) for _ in range(5)))
        async with app.node(views=False):
            pass
        await app.publish("came")
    with pytest.raises(NotConnected):
        await app.publish("came")
    await asyncio.gather(*(use(app) for _ in range(5)))


async def use(app: perdure.App) -> None:
    async with app:
        await app.publish("came")


@pytest.mark.parametrize("schema", ["shop", "Two Words-2"])
async def test_another_schema_has_its_own(database_url: str, schema: str) -> None:
    app = perdure.App(database_url, schema=schema)
    async with opened(database_url) as engine:
        await migrate(engine, schema)
    for kind in ASYNC:
        async with async_face(kind, database_url) as face:
            await app.publish("came", connection=face.given)
            await app.cancel(uuid4(), connection=face.given)
            await face.commit()
    found = rows(
        database_url,
        f'select (select count(*) from "{schema}".events), (select count(*) from "{schema}".inbox)',
    )
    assert found == [(len(ASYNC), len(ASYNC))]
    assert published(database_url) == []

"""Publish, start and cancel in the caller's own transaction, through every face: they commit or vanish with it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import psycopg
import pytest
from applications import new_app, task, workflow
from logs import execute, rows
from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

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
    yield Face(
        session, lambda sql: session.connection().exec_driver_sql(sql), session.commit, session.rollback
    )  # fmt: skip
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

        yield Face(session, run, session.commit, session.rollback)
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

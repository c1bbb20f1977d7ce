"""What the tests of the log share."""

import asyncio
import atexit
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import anyio
import psycopg
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.append import Append
from perdure_eventstore.appender import Appender
from perdure_eventstore.database import open_engine
from perdure_eventstore.events import NO_STREAM, Head, NewEvent, RecordedEvent
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

_numbers = count(1)

LOG_TABLES = ("events", "payloads", "tree_chunks", "tree_nodes", "heads")


def event(type_: str = "Happened", payload: bytes | None = None, id_: UUID | None = None) -> NewEvent:
    """An event unlike any other."""
    return NewEvent(type_, data=b'{"n": %d}' % next(_numbers), payload=payload, id=id_)


def new_stream(events: int = 1, payload: bytes | None = None, stream: UUID | None = None) -> Append:
    """The append that begins a stream."""
    return Append(stream or uuid4(), NO_STREAM, [event(payload=payload) for _ in range(events)])


def more(stream: UUID, head: Head, events: int = 1) -> Append:
    """The append that goes on with one."""
    return Append(stream, head, [event() for _ in range(events)])


@asynccontextmanager
async def running(engine: AsyncEngine, **options: Any) -> AsyncIterator[Appender]:
    """An appender at work."""
    appender = Appender(engine, **options)
    work = asyncio.create_task(appender.run())
    try:
        yield appender
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(url, **options)
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def reading(engine: AsyncEngine, schema: str = "perdure") -> AsyncIterator[Reader]:
    session = Session(engine)
    try:
        yield Reader(session, schema)
    finally:
        await session.close()


async def read_stream(engine: AsyncEngine, stream: UUID, batch: int = 1_000) -> list[RecordedEvent]:
    async with reading(engine) as reader:
        return [recorded async for recorded in reader.stream(stream, batch=batch)]


@contextmanager
def superuser(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def rows(url: str, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
    """What ``statement`` gives, over a connection that is kept: many tests ask until something has come about."""
    if threading.current_thread() is not threading.main_thread():
        with psycopg.connect(url, autocommit=True) as own:
            return own.execute(statement.encode(), parameters).fetchall()
    connection = _kept.get(url)
    if connection is not None:
        try:
            return connection.execute(statement.encode(), parameters).fetchall()
        except psycopg.OperationalError:
            # It was ended since, with its server or by a test: it tells nothing of the statement.
            if not connection.closed:
                raise
    _close_kept()
    connection = _kept[url] = psycopg.connect(url, autocommit=True)
    return connection.execute(statement.encode(), parameters).fetchall()


_kept: dict[str, psycopg.Connection[Any]] = {}
"""One at most: that of the last database asked. The main thread's."""


@atexit.register
def _close_kept() -> None:
    for connection in _kept.values():
        connection.close()
    _kept.clear()


def execute(url: str, *statements: str) -> None:
    with superuser(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def with_guards_off(*statements: str) -> list[str]:
    """What somebody with every right could do to the log: switch its guards off, change it, switch them on."""
    return [
        *(f"alter table perdure.{table} disable trigger all" for table in LOG_TABLES),
        *statements,
        *(f"alter table perdure.{table} enable always trigger {table}_are_final" for table in LOG_TABLES),
    ]


def tamper(url: str, *statements: str) -> None:
    execute(url, "begin", *with_guards_off(*statements), "commit")


@contextmanager
def keeping_the_log(url: str) -> Iterator[Callable[[], None]]:
    """Gives a function that brings the log back to what it is now, whatever was done to it."""
    execute(url, "create schema kept", *(f"create table kept.{t} as table perdure.{t}" for t in LOG_TABLES))

    def restore() -> None:
        statements = []
        for table in LOG_TABLES:
            statements += [
                f"truncate perdure.{table}",
                f"insert into perdure.{table} overriding system value select * from kept.{table}",
            ]
        tamper(url, *statements)

    yield restore
    execute(url, "drop schema kept cascade")


async def until(condition: Any, seconds: float = 10.0) -> None:
    """Wait, with a deadline, until ``condition()`` is true."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.005)

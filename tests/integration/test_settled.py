"""The settled mark: what a reader may read, so that no event comes up behind its back."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from logs import execute, new_stream, opened, superuser
from psycopg import AsyncConnection
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure.embedded import EmbeddedPostgres
from perdure.migrate import migrate
from perdure_eventstore.append import Batch, Statement, send
from perdure_eventstore.clock import Clock
from perdure_eventstore.database import raw_connection
from perdure_eventstore.errors import LogError
from perdure_eventstore.session import Session
from perdure_eventstore.settled import SettledMark

pytestmark = pytest.mark.every_postgres


class Writer:
    """Somebody's transaction that appends."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection

    async def run(self, statement: str) -> None:
        await self._connection.execute(statement.encode())

    async def append(self) -> int:
        """Append an event and return the position it drew."""
        (answer,) = await send(self._connection, Statement(), Batch([new_stream()]), Clock())
        assert answer is not None
        return answer.positions[0]

    async def begin_and_append(self) -> int:
        await self.run("begin")
        return await self.append()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with opened(database_url) as engine:
        yield engine


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncIterator[Session]:
    session = Session(engine)
    yield session
    await session.close()


@pytest.fixture
async def mark(session: Session) -> SettledMark:
    return SettledMark(session)


@pytest.fixture
async def one(engine: AsyncEngine) -> AsyncIterator[Writer]:
    async with raw_connection(engine) as connection:
        yield Writer(connection)


@pytest.fixture
async def other(engine: AsyncEngine) -> AsyncIterator[Writer]:
    async with raw_connection(engine) as connection:
        yield Writer(connection)


@pytest.fixture
async def third(engine: AsyncEngine) -> AsyncIterator[Writer]:
    async with raw_connection(engine) as connection:
        yield Writer(connection)


async def test_with_nobody_writing_everything_is_settled(mark: SettledMark, one: Writer) -> None:
    assert await mark.advance() == 0
    position = await one.append()
    assert await mark.advance() == position


async def test_an_event_is_not_passed_over_while_it_is_uncommitted(
    mark: SettledMark, one: Writer, other: Writer
) -> None:
    first = await one.begin_and_append()
    second = await other.append()
    assert first < second
    for _ in range(3):
        assert await mark.advance() == 0
        assert mark.pending
    await one.run("commit")
    assert await mark.advance() == second
    assert not mark.pending


async def test_a_rollback_leaves_a_hole_that_holds_nobody_up(mark: SettledMark, one: Writer, other: Writer) -> None:
    await one.begin_and_append()
    second = await other.append()
    assert await mark.advance() == 0
    await one.run("rollback")
    assert await mark.advance() == second


async def test_a_savepoint_rolled_back_does_not_hide_its_transaction(
    mark: SettledMark, one: Writer, other: Writer
) -> None:
    await one.run("begin")
    await one.run("savepoint a")
    lost = await one.append()
    await one.run("rollback to a")
    kept = await one.append()
    last = await other.append()
    assert lost < kept < last
    assert await mark.advance() == 0
    await one.run("commit")
    assert await mark.advance() == last


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_transaction_prepared_while_it_is_waited_for_is_waited_for_on(
    mark: SettledMark, one: Writer, other: Writer, end: str
) -> None:
    await one.begin_and_append()
    last = await other.append()
    assert await mark.advance() == 0
    name = uuid4().hex
    await one.run(f"prepare transaction '{name}'")
    assert await mark.advance() == 0
    assert mark.pending
    await other.run(f"{end} prepared '{name}'")
    assert await mark.advance() == last


async def test_a_later_writer_does_not_hold_up_what_was_before_it(
    mark: SettledMark, one: Writer, other: Writer, third: Writer
) -> None:
    """Several marks are pending, so that a log always being written moves on all the same."""
    await one.begin_and_append()
    first = await third.append()
    assert await mark.advance() == 0
    await other.begin_and_append()
    second = await third.append()
    assert await mark.advance() == 0
    await one.run("commit")
    await one.begin_and_append()
    last = await third.append()
    assert await mark.advance() == first
    await other.run("commit")
    assert await mark.advance() == second
    await one.run("commit")
    assert await mark.advance() == last


async def test_writers_that_never_leave_a_gap_between_them_do_not_stop_the_mark(
    mark: SettledMark, one: Writer, other: Writer
) -> None:
    reached = []
    holder, next_ = one, other
    await holder.begin_and_append()
    for _ in range(30):
        await next_.begin_and_append()
        await holder.run("commit")
        reached.append(await mark.advance())
        holder, next_ = next_, holder
    await holder.run("commit")
    assert reached[-1] >= 27
    assert reached == sorted(reached)


async def test_transactions_that_do_not_write_the_log_hold_nothing_up(
    mark: SettledMark, one: Writer, other: Writer
) -> None:
    for statement in (
        "begin",
        "create table public.unrelated ()",
        "lock perdure.events in row exclusive mode",
        "explain insert into perdure.subscriptions values ('a', 1)",
        "insert into perdure.subscriptions values ('a', 1)",
        "select last_value from perdure.events_position_seq",
    ):
        await one.run(statement)
    position = await other.append()
    assert await mark.advance() == position


async def test_a_writer_in_another_database_is_nobody_to_wait_for(
    mark: SettledMark, other: Writer, database_url: str
) -> None:
    """Databases made from one template have the same relation's id."""
    with superuser(database_url) as connection:
        name = f"test_{uuid4().hex}"
        template = connection.execute(
            "select datname from pg_database where datname like 'template\\_%' order by oid desc limit 1"
        ).fetchone()
        assert template is not None
        connection.execute(f"create database {name} template {template[0]}".encode())
        url = make_url(database_url).set(database=name).render_as_string(hide_password=False)
        async with opened(url) as engine, raw_connection(engine) as elsewhere:
            await Writer(elsewhere).begin_and_append()
            position = await other.append()
            assert await mark.advance() == position
        connection.execute(f"drop database {name} with (force)".encode())


async def test_what_was_pending_before_a_reconnect_is_forgotten(
    mark: SettledMark, session: Session, one: Writer, other: Writer
) -> None:
    await one.begin_and_append()
    await other.append()
    assert await mark.advance() == 0
    # On another server the transactions would bear other names, and seem to be gone.
    mark._pending[0] = (mark._pending[0][0], frozenset({"another/server"}))
    await session.close()
    assert await mark.advance() == 0
    await one.run("commit")
    assert await mark.advance() == 2


async def test_the_mark_looks_without_a_lock_and_with_one_statement(mark: SettledMark, one: Writer) -> None:
    """A reader that blocked writers would be worse than one that waits for them."""
    await one.run("begin")
    await one.run("lock perdure.events in access exclusive mode nowait")
    await one.run("rollback")
    await mark.advance()
    await one.run("begin")
    await one.run("set local lock_timeout = '50ms'")
    await one.append()
    await one.run("commit")


async def test_a_sequence_that_caches_is_refused(mark: SettledMark, database_url: str) -> None:
    await mark.check()
    execute(database_url, "alter sequence perdure.events_position_seq cache 20")
    with pytest.raises(LogError, match="the sequence of positions has CACHE 20; it must be 1, or the order is lost"):
        await mark.check()


async def test_the_checks_are_for_the_schemas_own_sequence(database_url: str, engine: AsyncEngine) -> None:
    await migrate(engine, "Other one")
    session = Session(engine)
    execute(database_url, 'alter sequence "Other one".events_position_seq cache 5')
    await SettledMark(session).check()
    with pytest.raises(LogError, match="CACHE 5"):
        await SettledMark(session, "Other one").check()
    await session.close()


async def test_a_standby_is_refused(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server = EmbeddedPostgres(tmp_path)
    url = server.acquire()
    try:
        async with opened(url) as engine:
            await migrate(engine)
        server.release()
        (tmp_path / "postgres" / "standby.signal").touch()
        async with opened(server.acquire()) as engine:
            session = Session(engine)
            with pytest.raises(
                LogError, match="this server is a standby in recovery: the log is read from the primary"
            ):
                await SettledMark(session).check()
            await session.close()
    finally:
        server.release()

"""The working set, written by the statement that appends: its rows, its fence, and what it costs."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from logs import event, more, new_stream, opened, rows
from psycopg import AsyncConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_engine.leases import Leases
from perdure_engine.task_types import TaskTypes
from perdure_engine.work import WorkStatement
from perdure_eventstore.append import Append, Appended, Batch, send
from perdure_eventstore.clock import Clock
from perdure_eventstore.database import raw_connection
from perdure_eventstore.errors import FenceLost
from perdure_eventstore.events import NO_STREAM, Head
from perdure_eventstore.session import Session

pytestmark = pytest.mark.every_postgres

RUN = UUID(int=1)
DUE = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with opened(database_url) as engine:
        yield engine


@pytest.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection[Any]]:
    async with raw_connection(engine) as connection:
        yield connection


async def append(
    connection: AsyncConnection[Any], *appends: Append, statement: WorkStatement | None = None
) -> list[Appended | None]:
    return await send(connection, statement or WorkStatement(), Batch(appends), Clock())


async def write(connection: AsyncConnection[Any], **work: list[dict[str, Any]]) -> None:
    """Write ``work`` beside an event."""
    await append(connection, Append(uuid4(), NO_STREAM, [event()], work))


async def test_a_timer_written_and_cleared_in_one_append_is_gone(
    connection: AsyncConnection[Any], database_url: str
) -> None:
    timer = {"run": RUN, "timer": "retry:a"}
    await write(connection, timers=[{**timer, "shard": 0, "due": DUE}], cleared=[timer])
    assert rows(database_url, "select from perdure.timers") == []


async def test_a_wait_written_and_disarmed_in_one_append_is_gone(
    connection: AsyncConnection[Any], database_url: str
) -> None:
    waits = [{"run": RUN, "trigger": n, "event": "came", "key": None, "armed_at": None} for n in range(2)]
    await write(connection, waits=waits, disarmed=[{"run": RUN, "trigger": 1}])
    assert rows(database_url, "select trigger from perdure.waits") == [(0,)]


async def test_the_key_of_a_run_that_ends_is_free_in_the_same_statement(
    connection: AsyncConnection[Any], database_url: str
) -> None:
    def opening(run: UUID) -> dict[str, Any]:
        return {"run": run, "shard": 0, "workflow_id": "w", "key": "k"}

    await write(connection, opened=[opening(RUN)])
    ending = Append(uuid4(), NO_STREAM, [event()], {"closed": [{"run": RUN}]})
    await append(connection, Append(uuid4(), NO_STREAM, [event()], {"opened": [opening(UUID(int=2))]}), ending)
    assert rows(database_url, "select run from perdure.open_runs") == [(UUID(int=2),)]


async def test_rows_hold_the_position_of_their_own_appends_first_event(
    connection: AsyncConnection[Any], database_url: str
) -> None:
    taken = new_stream()
    await append(connection, taken)
    appends = []
    for n in range(12):
        work = {
            "opened": [{"run": UUID(int=n), "shard": 0, "workflow_id": "w", "key": None}],
            "waits": [{"run": UUID(int=n), "trigger": 0, "event": "came", "key": None, "armed_at": None}],
        }
        events = [event() for _ in range(1 + n % 3)]
        # Every fourth comes too late for a stream that is there already, or that never was.
        late = Append(taken.stream, Head(7, b"?" * 32), events, work) if n == 4 else None
        appends.append(late or Append(uuid4(), Head(1, b"?" * 32) if n == 8 else NO_STREAM, events, work))
    answers = await append(connection, *appends)
    assert [n for n, answer in enumerate(answers) if answer is None] == [4, 8]
    expected = [(UUID(int=n), answer.positions[0]) for n, answer in enumerate(answers) if answer is not None]
    assert rows(database_url, "select run, started_at from perdure.open_runs order by run") == expected
    assert rows(database_url, "select run, armed_at from perdure.waits order by run") == expected


async def test_rows_beside_a_thousand_appends_cost_little(connection: AsyncConnection[Any]) -> None:
    async def took(companion: Any) -> float:
        found = []
        for _ in range(3):
            appends = [Append(uuid4(), NO_STREAM, [event()], companion and companion()) for _ in range(1_000)]
            began = time.perf_counter()
            await append(connection, *appends)
            found.append(time.perf_counter() - began)
        return min(found)

    def work() -> Any:
        return {"opened": [{"run": uuid4(), "shard": 0, "workflow_id": "w", "key": None}]}

    bare, beside = await took(None), await took(work)
    # When each append's first position was counted anew, this was 9 times, and 80 in a connection's first calls.
    assert beside < 8 * bare, f"{beside:.3f} s beside rows, {bare:.3f} s without"


@asynccontextmanager
async def leasing(engine: AsyncEngine, node: UUID, seconds: float) -> AsyncIterator[Leases]:
    session = Session(engine)
    leases = Leases(session, node, TaskTypes(), 10, "perdure", seconds)
    await leases.join()
    await leases.renew()
    try:
        yield leases
    finally:
        await session.close()


async def test_a_node_renews_its_leases_beside_its_append_in_flight_and_its_heir_waits_for_that(
    engine: AsyncEngine, connection: AsyncConnection[Any]
) -> None:
    node, heir = uuid4(), uuid4()
    statement = WorkStatement("perdure", node, 1)
    async with leasing(engine, node, 0.2) as leases:
        await connection.execute("begin")
        stream = new_stream()
        (appended,) = await append(connection, stream, statement=statement)
        assert appended is not None
        async with asyncio.timeout(2):
            await leases.renew()
        await asyncio.sleep(0.3)
        async with leasing_later(engine, heir) as taking:
            await asyncio.sleep(0.2)
            assert not taking.done(), "the heir did not wait for what the dead node was writing"
            await connection.commit()
            assert len(await asyncio.wait_for(taking, 5)) == 64
        with pytest.raises(FenceLost):
            await append(connection, more(stream.stream, appended.head), statement=statement)


@asynccontextmanager
async def leasing_later(engine: AsyncEngine, node: UUID) -> AsyncIterator[asyncio.Future[frozenset[int]]]:
    """A node that takes over what it can, however long that takes."""
    session = Session(engine)
    leases = Leases(session, node, TaskTypes(), 10, "perdure", 10.0, 0.0)
    await leases.join()
    taking = asyncio.ensure_future(leases.renew())
    try:
        yield taking
    finally:
        taking.cancel()
        await session.close()


async def test_an_append_that_waited_for_its_nodes_heir_is_refused(
    engine: AsyncEngine, connection: AsyncConnection[Any], database_url: str
) -> None:
    node, heir = uuid4(), uuid4()
    async with leasing(engine, node, 0.05):
        await asyncio.sleep(0.1)
        fence = Leases(Session(engine), heir, TaskTypes(), 10, "perdure", 10.0)._fence
        with psycopg.connect(database_url) as taking:
            assert taking.execute(fence.encode(), (heir, True, timedelta(0))).fetchall() == [(node,)]
            late = asyncio.ensure_future(
                append(connection, new_stream(), statement=WorkStatement("perdure", node, 1))
            )  # fmt: skip
            await asyncio.sleep(0.2)
            assert not late.done()
            taking.commit()
        with pytest.raises(FenceLost):
            await asyncio.wait_for(late, 5)


async def test_a_timer_that_comes_again_is_due_then(connection: AsyncConnection[Any], database_url: str) -> None:
    timer = {"run": RUN, "timer": "retry:a", "shard": 0}
    await write(connection, timers=[{**timer, "due": DUE}])
    await write(connection, timers=[{**timer, "due": DUE + timedelta(hours=1)}])
    assert rows(database_url, "select due from perdure.timers") == [(DUE + timedelta(hours=1),)]

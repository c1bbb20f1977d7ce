"""One call of append_batch: who wins, who is told, and that all of an append is recorded or nothing."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from logs import event, more, new_stream, opened, read_stream, rows, until
from psycopg import AsyncConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.append import Append, Appended, Batch, Statement, Together, read_clock, send
from perdure_eventstore.clock import Clock
from perdure_eventstore.database import raw_connection
from perdure_eventstore.errors import AppendRefused, ClockDrift, LogUnavailable, Raced
from perdure_eventstore.events import NO_STREAM, Head, NewEvent

pytestmark = pytest.mark.every_postgres


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with opened(database_url) as engine:
        yield engine


@pytest.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection[Any]]:
    async with raw_connection(engine) as connection:
        yield connection


async def append(connection: AsyncConnection[Any], *appends: Append) -> list[Appended | None]:
    return await send(connection, Statement(), Batch(appends), Clock())


async def append_one(connection: AsyncConnection[Any], one: Append) -> Appended:
    appended = (await append(connection, one))[0]
    assert appended is not None
    return appended


async def test_an_append_is_recorded_as_given(engine: AsyncEngine, connection: AsyncConnection[Any]) -> None:
    stream, id_ = uuid4(), uuid4()
    first = NewEvent("RunStarted", b'{ "a":1.10 }', b'{"name": "Ada"}', b'{"node": null}', 3, id_)
    appended = await append_one(connection, Append(stream, NO_STREAM, [first, event("Next")]))
    one, two = await read_stream(engine, stream)
    assert one[2:10] == (stream, 1, 3, id_, "RunStarted", b'{ "a":1.10 }', b'{"node": null}', b'{"name": "Ada"}')
    assert (two.version, two.type, two.payload, two.payload_digest) == (2, "Next", None, None)
    assert (one.position, two.position) == tuple(appended.positions)
    assert two.head == appended.head
    assert abs(one.recorded_at - datetime.now(UTC)) < timedelta(seconds=5)


async def test_a_new_stream_begins_at_version_1_and_goes_on_from_its_head(
    engine: AsyncEngine, connection: AsyncConnection[Any]
) -> None:
    begun = new_stream(2)
    head = (await append_one(connection, begun)).head
    await append_one(connection, more(begun.stream, head, 2))
    assert [recorded.version for recorded in await read_stream(engine, begun.stream)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "expected",
    [NO_STREAM, Head(1, b"1" * 32), Head(2, b"2" * 32), Head(2, None), Head(3, b"3" * 32)],
    ids=["no stream", "an old head", "another hash", "no hash", "a head to come"],
)
async def test_an_append_that_expects_another_head_is_left_out(
    engine: AsyncEngine, connection: AsyncConnection[Any], expected: Head
) -> None:
    begun = new_stream(2)
    await append(connection, begun)
    assert await append(connection, more(begun.stream, expected)) == [None]
    assert len(await read_stream(engine, begun.stream)) == 2


async def test_an_append_to_a_stream_that_is_not_there_is_left_out(connection: AsyncConnection[Any]) -> None:
    assert await append(connection, more(uuid4(), Head(1, b"1" * 32))) == [None]
    # A first event chained to something would break the chain.
    assert await append(connection, more(uuid4(), Head(0, b"1" * 32))) == [None]


async def test_of_many_appends_only_the_losers_are_left_out(
    engine: AsyncEngine, connection: AsyncConnection[Any]
) -> None:
    taken = [new_stream() for _ in range(3)]
    await append(connection, *taken)
    fresh = [new_stream(2) for _ in range(3)]
    # Each twice over: the loser's events must not shift anybody's positions.
    batch = [fresh[0], new_stream(stream=taken[0].stream), fresh[1], new_stream(3, stream=taken[1].stream), fresh[2]]
    answers = await append(connection, *batch)
    assert [answer is not None for answer in answers] == [True, False, True, False, True]
    for one, answer in zip(batch, answers, strict=True):
        recorded = await read_stream(engine, one.stream)
        if answer is not None:
            assert [item.position for item in recorded] == list(answer.positions)
            assert [item.data for item in recorded] == [item.data for item in one.events]
            assert recorded[-1].head == answer.head
    assert [len(await read_stream(engine, one.stream)) for one in taken] == [1, 1, 1]


async def test_the_large_payload_of_a_loser_is_left_out_too(
    database_url: str, connection: AsyncConnection[Any]
) -> None:
    taken = new_stream()
    await append(connection, taken)
    await append(connection, new_stream(2, payload=b"x" * 100_000, stream=taken.stream))
    assert rows(database_url, "select count(*) from perdure.payloads") == [(0,)]


async def test_of_several_together_all_are_recorded_or_none(
    engine: AsyncEngine, connection: AsyncConnection[Any]
) -> None:
    taken = new_stream()
    head = (await append_one(connection, taken)).head
    won, alone = Together((new_stream(2), more(taken.stream, head))), new_stream()
    late = Together((new_stream(payload=b"x" * 10_000), new_stream(stream=taken.stream), new_stream()))
    batch = Batch([late, alone, won])
    answers = await send(connection, Statement(), batch, Clock())
    assert [answer is not None for answer in answers] == [False, False, False, True, True, True]
    assert batch.losers == {1}
    for one in late.appends[::2]:
        assert await read_stream(engine, one.stream) == []
    for one, answer in zip((alone, *won.appends), answers[3:], strict=True):
        assert answer is not None
        assert [each.position for each in await read_stream(engine, one.stream)][-len(one.events) :] == list(
            answer.positions
        )
    assert len(await read_stream(engine, taken.stream)) == 2


def test_two_of_a_group_are_not_for_one_stream() -> None:
    stream = uuid4()
    with pytest.raises(ValueError, match="same stream"):
        Together((new_stream(stream=stream), new_stream(stream=stream)))


async def test_a_race_left_after_the_probe_is_raised_and_nothing_is_written(
    engine: AsyncEngine, database_url: str, connection: AsyncConnection[Any]
) -> None:
    stream, mate = uuid4(), new_stream()
    errors: list[BaseException] = []

    async def race() -> None:
        # Its probe sees nothing of the other; the unique key waits for the other's end.
        try:
            await append(connection, mate, new_stream(stream=stream))
        except Raced as error:
            errors.append(error)

    def waits() -> bool:
        return bool(rows(database_url, "select from pg_locks where not granted"))

    async with raw_connection(engine) as other, anyio.create_task_group() as group:
        await other.execute("begin")
        await append_one(other, new_stream(stream=stream))
        group.start_soon(race)
        await until(waits)
        await other.execute("commit")
    assert len(errors) == 1
    assert await read_stream(engine, mate.stream) == []
    assert len(await read_stream(engine, stream)) == 1


async def test_a_connection_that_rolled_back_appends_again_in_its_transactions_and_between_them(
    engine: AsyncEngine, connection: AsyncConnection[Any]
) -> None:
    statement, clock = Statement(), Clock()
    kept = [new_stream() for _ in range(4)]
    await send(connection, statement, Batch([kept[0]]), clock)
    for one in kept[1:3]:
        await connection.execute("begin")
        await send(connection, statement, Batch([new_stream()]), clock)
        await connection.execute("rollback")
        await connection.execute("begin")
        await send(connection, statement, Batch([one]), clock)
        await connection.execute("commit")
    await send(connection, statement, Batch([kept[3]]), clock)
    assert [len(await read_stream(engine, one.stream)) for one in kept] == [1, 1, 1, 1]
    assert await (await connection.execute("select count(*) from perdure.events")).fetchone() == (4,)


async def test_an_id_given_is_the_events_and_others_are_drawn(
    engine: AsyncEngine, connection: AsyncConnection[Any]
) -> None:
    given, stream = uuid4(), uuid4()
    await append(connection, Append(stream, NO_STREAM, [event(id_=given), event(), event()]))
    ids = [recorded.id for recorded in await read_stream(engine, stream)]
    assert ids[0] == given
    assert len(set(ids)) == 3
    assert all(id_.version == 4 and id_.variant == UUID(int=given.int).variant for id_ in ids)


@pytest.mark.parametrize(
    "bad",
    [
        NewEvent("Bad", data=b"{"),
        NewEvent("Bad", metadata=b'"\xff"'),
        NewEvent("Bad\0"),
        NewEvent("\ud800"),
        NewEvent("Bad", schema_version=2**15),
    ],
    ids=["data is not JSON", "metadata is not text", "NUL in the type", "surrogate in the type", "schema version"],
)
async def test_an_event_that_cannot_be_recorded_is_refused_whole(
    engine: AsyncEngine, connection: AsyncConnection[Any], bad: NewEvent
) -> None:
    stream, mate = uuid4(), new_stream()
    with pytest.raises(AppendRefused):
        await append(connection, mate, Append(stream, NO_STREAM, [event(), bad]))
    assert await read_stream(engine, stream) == []
    assert await read_stream(engine, mate.stream) == []
    await append_one(connection, mate)


def test_an_append_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no events"):
        Append(uuid4(), NO_STREAM, [])


async def test_a_clock_that_is_off_is_corrected_and_the_append_sent_again(
    engine: AsyncEngine, connection: AsyncConnection[Any]
) -> None:
    for hours in (-1, 1):
        clock, one = Clock(), new_stream()
        clock.correct(clock.local() + hours * 3_600_000_000, clock.local(), clock.local())
        assert (await send(connection, Statement(), Batch([one]), clock))[0] is not None
        assert abs(clock.now() - clock.local()) < 2_000_000
        (recorded,) = await read_stream(engine, one.stream)
        assert abs(recorded.recorded_at - datetime.now(UTC)) < timedelta(seconds=5)


async def test_in_somebodys_transaction_a_clock_that_is_off_is_refused(connection: AsyncConnection[Any]) -> None:
    clock = Clock()
    clock.correct(clock.local() - 6_000_000, clock.local(), clock.local())
    with pytest.raises(ClockDrift, match=r"recorded_at .* is more than 5 s from the database's clock"):
        async with connection.transaction():
            await send(connection, Statement(), Batch([new_stream()]), clock)


async def test_the_clock_is_read_within_half_a_round_trip(connection: AsyncConnection[Any]) -> None:
    clock = Clock()
    clock.correct(0, clock.local(), clock.local())
    before = clock.local()
    await read_clock(connection, clock)
    assert abs(clock.now() - clock.local()) <= clock.local() - before


async def test_the_same_batch_sent_again_is_the_same_events(
    engine: AsyncEngine, connection: AsyncConnection[Any]
) -> None:
    batch, clock = Batch([new_stream(2, payload=b"x")]), Clock()
    async with connection.transaction(force_rollback=True):
        await send(connection, Statement(), batch, clock)
        first = await (await connection.execute("select id, payload_salt from perdure.events")).fetchall()
    await send(connection, Statement(), batch, clock)
    assert await (await connection.execute("select id, payload_salt from perdure.events")).fetchall() == first
    assert await send(connection, Statement(), batch, clock) == [None]


async def test_many_rows_of_every_kind_fit_one_statement(engine: AsyncEngine, connection: AsyncConnection[Any]) -> None:
    payloads = [None, b"", b"x", b"y" * 8192, b"z" * 8193, b"\0\xff"]
    appends = [new_stream(3, payload=payloads[i % 6]) for i in range(400)]
    answers = await append(connection, *appends)
    assert all(answers)
    positions = sorted(position for answer in answers if answer for position in answer.positions)
    assert positions == list(range(1, 1201))
    for i in range(12):
        recorded = await read_stream(engine, appends[i].stream)
        assert [item.payload for item in recorded] == [payloads[i % 6]] * 3


async def test_a_connection_lost_while_the_clock_is_read_is_one_of_the_logs_errors(
    database_url: str, connection: AsyncConnection[Any]
) -> None:
    rows(database_url, "select pg_terminate_backend(%s)", (connection.info.backend_pid,))
    with pytest.raises(LogUnavailable):
        await read_clock(connection, Clock())

"""Reading a stream, its head and a span of the log."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from logs import event, more, new_stream, opened, read_stream, reading, running, tamper
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.append import Append
from perdure_eventstore.events import NO_STREAM, NewEvent

pytestmark = pytest.mark.every_postgres


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with opened(database_url) as engine:
        yield engine


async def test_a_stream_comes_in_order_whatever_lies_between_its_events(engine: AsyncEngine) -> None:
    one, other = uuid4(), uuid4()
    heads = {one: NO_STREAM, other: NO_STREAM}
    async with running(engine) as appender:
        for stream in (one, other, other, one, one, other):
            heads[stream] = (await appender.append(more(stream, heads[stream], 2))).head
    for stream in (one, other):
        recorded = await read_stream(engine, stream)
        assert [item.version for item in recorded] == [1, 2, 3, 4, 5, 6]
        assert {item.stream for item in recorded} == {stream}
        assert recorded[-1].head == heads[stream]


async def test_no_page_boundary_loses_or_doubles_an_event(engine: AsyncEngine) -> None:
    async with running(engine) as appender, reading(engine) as reader:
        for count in range(1, 8):
            one = new_stream(count)
            await appender.append(one)
            found = [item.data async for item in reader.stream(one.stream, batch=3)]
            assert found == [item.data for item in one.events], count


async def test_a_stream_is_read_from_after_a_version(engine: AsyncEngine) -> None:
    one = new_stream(5)
    async with running(engine) as appender, reading(engine) as reader:
        await appender.append(one)
        for after in range(7):
            found = [item.version async for item in reader.stream(one.stream, after, batch=2)]
            assert found == list(range(after + 1, 6))


async def test_a_stream_that_is_not_there_is_empty_and_has_no_head(engine: AsyncEngine) -> None:
    async with reading(engine) as reader:
        assert [item async for item in reader.stream(uuid4())] == []
        assert await reader.head(uuid4()) == NO_STREAM


async def test_the_head_is_that_of_the_last_event(engine: AsyncEngine) -> None:
    one = new_stream(3)
    async with running(engine) as appender, reading(engine) as reader:
        appended = await appender.append(one)
        assert await reader.head(one.stream) == appended.head


async def test_a_payload_of_any_size_is_read_back_byte_for_byte(engine: AsyncEngine) -> None:
    async with running(engine) as appender, reading(engine) as reader:
        for size in (0, 1, 8191, 8192, 8193, 3_000_000):
            payload = (bytes(range(251)) * (size // 251 + 1))[:size]
            one = new_stream(2, payload=payload)
            appended = await appender.append(one)
            assert [item.payload for item in await read_stream(engine, one.stream)] == [payload] * 2
            span = await reader.span(appended.positions[0] - 1, appended.positions[-1])
            assert [item.payload for item in span] == [payload] * 2


async def test_a_large_payload_is_read_only_if_it_is_asked_for(engine: AsyncEngine) -> None:
    async with running(engine) as appender, reading(engine) as reader:
        one = Append(uuid4(), NO_STREAM, [event(payload=b"small"), event(payload=b"x" * 100_000), event()])
        appended = await appender.append(one)
        asked: list[str] = []
        fetch = reader._session.fetch

        async def noted(statement: str, parameters: Any = ()) -> list[Any]:
            asked.append(statement)
            return await fetch(statement, parameters)

        reader._session.fetch = noted  # type: ignore[method-assign]
        without = [each async for each in reader.stream(one.stream, payloads=False)]
        span = await reader.span(0, appended.positions[-1], payloads=False)
        assert [each.payload for each in without] == [each.payload for each in span] == [b"small", None, None]
        assert not any("payloads" in statement for statement in asked)
        whole = [each async for each in reader.stream(one.stream)]
        assert [len(each.payload or b"") for each in whole] == [5, 100_000, 0]
        assert whole[1]._replace(payload=None) == without[1]


async def test_texts_come_back_as_they_were_written(engine: AsyncEngine) -> None:
    text = (
        '{ "n" : 1.10, "big":18446744073709551615, "x":1e16, "a":1, "a":2, "s":"\\u0000 \\ud83d\\ude00 😀" }'.encode()
    )
    one = Append(uuid4(), NO_STREAM, [NewEvent("Kept", data=text, metadata=b" [] ", payload=text)])
    async with running(engine) as appender:
        await appender.append(one)
    (found,) = await read_stream(engine, one.stream)
    assert (found.data, found.metadata, found.payload) == (text, b" [] ", text)


@pytest.mark.parametrize("size", [10, 10_000])
async def test_an_erased_payload_is_none_and_its_digest_stays(
    engine: AsyncEngine, database_url: str, size: int
) -> None:
    one, never = new_stream(1, payload=b"x" * size), new_stream(1)
    async with running(engine) as appender:
        await appender.append(one)
        await appender.append(never)
    tamper(
        database_url, "update perdure.events set payload = null, payload_salt = null", "delete from perdure.payloads"
    )
    (erased,) = await read_stream(engine, one.stream)
    (without,) = await read_stream(engine, never.stream)
    assert (erased.payload, len(erased.payload_digest or b"")) == (None, 32)
    assert (without.payload, without.payload_digest) == (None, None)


async def test_a_span_is_bounded_on_both_sides_limited_and_in_order(engine: AsyncEngine) -> None:
    async with running(engine) as appender, reading(engine) as reader:
        for _ in range(5):
            await appender.append(new_stream(2))
        assert [item.position for item in await reader.span(3, 7)] == [4, 5, 6, 7]
        assert [item.position for item in await reader.span(3, 7, limit=2)] == [4, 5]
        assert await reader.span(10, 10) == []


async def test_a_span_can_be_narrowed_to_types(engine: AsyncEngine) -> None:
    types = ["A", "B", "C", "A", "B"]
    async with running(engine) as appender, reading(engine) as reader:
        await appender.append(Append(uuid4(), NO_STREAM, [event(type_) for type_ in types]))
        assert [item.type for item in await reader.span(0, 5, types=["A", "C"])] == ["A", "C", "A"]
        assert [item.position for item in await reader.span(1, 5, types=["A", "C"], limit=1)] == [3]
        assert await reader.span(0, 5, types=[]) == []

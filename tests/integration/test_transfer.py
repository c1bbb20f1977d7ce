"""Export and import between real logs: loss-free, in the old order, all of a file or nothing of it."""

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from logs import event, more, new_stream, opened, rows, running, tamper
from sqlalchemy.ext.asyncio import AsyncEngine
from transfers import LOG, another_log, content, exported, import_lines, url_of

from perdure_eventstore.append import Append
from perdure_eventstore.database import raw_connection
from perdure_eventstore.events import NO_STREAM, NewEvent
from perdure_eventstore.transfer import reading
from perdure_eventstore.transfer.entry import Entry, TransferRefused
from perdure_eventstore.transfer.form import form_of
from perdure_eventstore.transfer.frame import Selection, Tally
from perdure_eventstore.transfer.importing import Imported
from perdure_eventstore.transfer.lines import export_lines
from perdure_eventstore.verify import verify

pytestmark = pytest.mark.every_postgres

FIRST, SECOND, THIRD = (UUID(int=n, version=4) for n in (1, 2, 3))
PAYLOADS = [
    b'{"amount":1.10,"big":1E400}', b"null", b'{\n  "pretty": true\n}', b'"\\u0000"', '"é\u2028"'.encode(),
    b"\x01\x00\xff frame", b'"' + b"x" * 9_000 + b'"', bytes(range(256)) * 8_000, b"", None,
]  # fmt: skip


@pytest.fixture
async def source(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A log of three streams that lie between each other, with every kind of payload."""
    async with opened(database_url) as engine:
        async with running(engine) as appender:
            heads = {stream: NO_STREAM for stream in (FIRST, SECOND, THIRD)}
            for payload in PAYLOADS:
                for stream in heads:
                    one = NewEvent("Happened", b'{ "n": 1.10 }', payload, b'{"node":\n1}', id=uuid4())
                    other = event("PayloadsErased" if stream == THIRD and payload is None else "Happened")
                    heads[stream] = (await appender.append(Append(stream, heads[stream], [one, other]))).head
        tamper(
            database_url,
            f"update perdure.events set payload = null, payload_salt = null where stream = '{THIRD}' and version = 1",
        )
        yield engine


@pytest.fixture
async def target(source: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    async with another_log(url_of(source)) as engine:
        yield engine


def lines_of(text: bytes) -> list[bytes]:
    return text.splitlines(keepends=True)


def sealed(lines: Sequence[bytes]) -> bytes:
    """The lines with a trailer that fits them, as somebody who forges them would write it."""
    form, tally = form_of(lines[0]), Tally()
    form.read_header(lines[0])
    for line in lines:
        tally.take(line)
    for line in lines[1:]:
        entry = form.read(line)
        assert isinstance(entry, Entry)
        tally.count(entry.event.position, entry.event.version)
    return b"".join([*lines, form.trailer(tally.trailer())])


async def is_whole(engine: AsyncEngine) -> bool:
    async with raw_connection(engine) as connection:
        return all([progress.fault is None async for progress in verify(connection)])


@pytest.mark.parametrize("form", ["jsonl", "cloudevents"])
async def test_what_is_exported_and_imported_is_the_same(source: AsyncEngine, target: AsyncEngine, form: str) -> None:
    text, said = await exported(source, form)
    assert await import_lines(target, text) == Imported(LOG, said.events, 3, 0)
    assert content(url_of(target)) == content(url_of(source))
    assert (said.events, said.streams) == (60, 3)
    assert await is_whole(target)


async def test_it_draws_new_positions_in_the_old_order_beside_what_is_there(
    source: AsyncEngine, target: AsyncEngine
) -> None:
    async with running(target) as appender:
        await appender.append(new_stream(5))
    await import_lines(target, (await exported(source))[0])
    there = content(url_of(target), positions=True)
    assert [row[0] for row in there] == list(range(1, 66))
    assert [row[1:] for row in there[5:]] == content(url_of(source))


async def test_importing_again_does_nothing(source: AsyncEngine, target: AsyncEngine) -> None:
    text, _ = await exported(source)
    await import_lines(target, text)
    before = content(url_of(target), positions=True)
    assert await import_lines(target, text) == Imported(LOG, 0, 0, 60)
    assert content(url_of(target), positions=True) == before


async def test_an_export_may_go_on_where_the_last_one_ended(source: AsyncEngine, target: AsyncEngine) -> None:
    first, said = await exported(source, selection=Selection(last=25))
    assert (await import_lines(target, first)).events == 25
    rest, _ = await exported(source, selection=Selection(after=25))
    assert await import_lines(target, rest) == Imported(LOG, 35, 0, 0)
    assert content(url_of(target)) == content(url_of(source))
    assert said.mark == 60


async def test_streams_are_exported_alone_and_whole(source: AsyncEngine, target: AsyncEngine) -> None:
    text, said = await exported(source, selection=Selection(streams=(SECOND, uuid4())))
    assert (said.events, said.streams) == (20, 1)
    await import_lines(target, text)
    assert content(url_of(target)) == [row for row in content(url_of(source)) if row[1] == SECOND]


async def test_what_is_erased_while_it_is_exported_is_exported_as_erased(
    source: AsyncEngine, target: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, before = reading._groups, content(url_of(source))

    def erased_meanwhile(larges: Any) -> Any:
        rows(url_of(source), f"select perdure.erase_payloads('{SECOND}', 100, '', '')")
        return groups(larges)

    monkeypatch.setattr(reading, "_groups", erased_meanwhile)
    text, said = await exported(source)
    assert (await import_lines(target, text)).events == said.events == 60
    large = [row[1] == SECOND and row[8] is not None and len(row[8]) > 5_000 for row in before]
    assert large.count(True) == 2
    expected = [(*row[:8], None, None, *row[10:]) if gone else row for row, gone in zip(before, large, strict=True)]
    assert content(url_of(target)) == expected


async def test_what_does_not_chain_is_refused_with_its_line_and_nothing_is_imported(
    source: AsyncEngine, target: AsyncEngine, subtests: pytest.Subtests
) -> None:
    whole = lines_of((await exported(source))[0])[:-1]
    # Line 8 is version 2 of the first stream's second append: version 4.
    for what, lines, number, sentence in [
        ("data changed", [*whole[:7], whole[7].replace(b'"n":', b'"m":'), *whole[8:]], 8, "was changed"),
        ("two lines missing", [*whole[:7], *whole[9:]], 12, "is missing before its version"),
        ("the first event missing", [whole[0], *whole[2:]], 2, "version 1 of stream"),
        ("time changed", [*whole[:7], whole[7].replace(b'_at":"2', b'_at":"1'), *whole[8:]], 8, "was changed"),
        ("payload changed", [*whole[:1], whole[1].replace(b"1.10,", b"1.1,"), *whole[2:]], 2, "payload of version 1"),
        ("salt taken away", [*whole[:1], without(whole[1], "salt"), *whole[2:]], 2, "payload of version 1"),
        ("digest taken away", [*whole[:1], without(whole[1], "digest"), *whole[2:]], 2, "was changed"),
        ("moved to another stream", [*whole[:-1], whole[-1].replace(str(THIRD).encode(), str(uuid4()).encode())], 61,
         "is missing before its version"),
        ("no JSON where JSON is kept", [*whole[:1], whole[1].replace(b'"data":{ "n": 1.10 }', b'"data_text":"?"')], 2,
         "was changed"),
    ]:  # fmt: skip
        with subtests.test(what):
            if lines == whole:
                assert what == "time changed"
                continue
            with pytest.raises(TransferRefused) as refused:
                await import_lines(target, sealed(lines))
            assert refused.value.line == number
            assert sentence in str(refused.value)
            assert content(url_of(target)) == []


def without(line: bytes, member: str) -> bytes:
    begin = line.index(f'"{member}":"'.encode())
    return line[:begin] + line[line.index(b'",', begin) + 2 :]


async def test_a_file_that_is_cut_anywhere_leaves_nothing(source: AsyncEngine, target: AsyncEngine) -> None:
    text, _ = await exported(source)
    for at in Random(1).sample(range(1, len(text) - 1), 20):
        with pytest.raises(TransferRefused, match=r"^line \d+: "):
            await import_lines(target, text[:at])
    assert content(url_of(target)) == []


async def test_a_stream_that_is_there_with_other_content_is_refused(source: AsyncEngine, target: AsyncEngine) -> None:
    async with running(target) as appender:
        begun = await appender.append(new_stream(2, stream=THIRD))
    before = content(url_of(target))
    with pytest.raises(TransferRefused, match=f"line 6: stream {THIRD} is there already, with another version 1"):
        await import_lines(target, (await exported(source))[0])
    assert content(url_of(target)) == before
    async with running(target) as appender:
        await appender.append(more(THIRD, begun.head))


async def test_a_stream_that_went_on_here_takes_no_other_continuation(source: AsyncEngine, target: AsyncEngine) -> None:
    await import_lines(target, (await exported(source, selection=Selection(last=25)))[0])
    async with running(target) as appender:
        head = rows(url_of(target), f"select version, hash from perdure.events where stream = '{FIRST}' "
                    "order by version desc limit 1")[0]  # fmt: skip
        await appender.append(more(FIRST, type(NO_STREAM)(*head)))
    with pytest.raises(TransferRefused, match=f"stream {FIRST} is there already, with another version"):
        await import_lines(target, (await exported(source))[0])


async def test_the_way_in_cannot_be_bypassed(source: AsyncEngine, target: AsyncEngine) -> None:
    """The database itself refuses what does not hash, whoever calls."""
    arguments = "array[gen_random_uuid()], array[1], array[gen_random_uuid()], array['T'], array[1::smallint], "
    arguments += "array[now()], array['{}'], array['{}'], array[null::bytea], array[null::bytea], array[null::bytea]"
    with pytest.raises(Exception, match="does not match"):
        rows(url_of(target), f"select perdure.import_batch({arguments}, array[sha256('forged')])")


async def test_import_while_others_append(source: AsyncEngine, target: AsyncEngine) -> None:
    text, said = await exported(source)
    stop = asyncio.Event()
    acknowledged: list[Any] = []

    async def write(appender: Any) -> None:
        while not stop.is_set():
            appended = await appender.append(new_stream(2))
            acknowledged.extend(appended.positions)

    async with running(target) as appender:
        writers = [asyncio.ensure_future(write(appender)) for _ in range(8)]
        await asyncio.sleep(0.1)
        await import_lines(target, text)
        await asyncio.sleep(0.1)
        stop.set()
        await asyncio.gather(*writers)
    there = content(url_of(target), positions=True)
    ours = content(url_of(source))
    assert [row[1:] for row in there if row[2] in (FIRST, SECOND, THIRD)] == ours
    assert {row[0] for row in there if row[2] not in (FIRST, SECOND, THIRD)} == set(acknowledged)
    assert said.events == len(ours) and await is_whole(target)


async def test_an_export_never_cuts_an_append_in_two(source: AsyncEngine) -> None:
    stop = asyncio.Event()

    async def write() -> None:
        async with running(source) as appender:
            while not stop.is_set():
                await appender.append(new_stream(3))
                await asyncio.sleep(0.005)

    writers = [asyncio.ensure_future(write()) for _ in range(6)]
    counts: list[int] = []
    try:
        for _ in range(8):
            text, _said = await exported(source)
            found: dict[UUID, int] = {}
            for line in export_lines(io.BytesIO(text)):
                found[line.entry.event.stream] = found.get(line.entry.event.stream, 0) + 1
            counts += [count for stream, count in found.items() if stream not in (FIRST, SECOND, THIRD)]
    finally:
        stop.set()
        await asyncio.gather(*writers)
    assert len(counts) > 20 and set(counts) == {3}


async def test_an_empty_log_is_exported_and_imported(target: AsyncEngine) -> None:
    async with another_log(url_of(target)) as other:
        text, said = await exported(target)
        assert (said.events, said.mark) == (0, 0)
        assert await import_lines(other, text) == Imported(LOG, 0, 0, 0)


async def test_of_what_is_wrong_the_first_line_is_named(source: AsyncEngine, target: AsyncEngine) -> None:
    whole = lines_of((await exported(source))[0])
    for lines, number in [
        ([*whole[:7], whole[7].replace(b'"n":', b'"m":'), *whole[8:]], 8),
        ([*whole[:7], *whole[9:]], 12),
        ([*whole[:7], whole[7].replace(b'"n":', b'"m":'), *whole[8:-1]], 8),
        ([*whole[:7], whole[7].replace(b'"n":', b'"m":'), *whole[8:20], b"?\n"], 8),
    ]:
        with pytest.raises(TransferRefused) as refused:
            await import_lines(target, b"".join(lines))
        assert refused.value.line == number
    assert content(url_of(target)) == []

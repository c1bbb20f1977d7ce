"""The check of the chain names the first event that is not what was recorded, whoever changed it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import psycopg
import pytest
from logs import keeping_the_log, more, new_stream, opened, reading, rows, running, tamper
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore import verify as verification
from perdure_eventstore.append import Append
from perdure_eventstore.checking import chains
from perdure_eventstore.database import raw_connection
from perdure_eventstore.events import NO_STREAM, NewEvent
from perdure_eventstore.session import Borrowed
from perdure_eventstore.verify import Progress, verify

pytestmark = pytest.mark.every_postgres

# Streams in the order of the check; each has 4 events, the third of them with a payload, of "large" a large one.
BEFORE, VICTIM, LARGE, AFTER = (UUID(int=n, version=4) for n in (1, 2, 3, 4))


def at(stream: UUID, version: int) -> str:
    return f"where stream = '{stream}' and version = {version}"


HASH_WRONG = "its hash does not match: it, or its place in the stream, was changed"

TAMPERINGS: dict[str, tuple[list[str], UUID, int, str]] = {
    "type altered": ([f"update perdure.events set type = 'Other' {at(VICTIM, 2)}"], VICTIM, 2, HASH_WRONG),
    "data altered": ([f"""update perdure.events set data = '{{"n": 0}}' {at(VICTIM, 2)}"""], VICTIM, 2, HASH_WRONG),
    "only a space in data": (
        [f"update perdure.events set data = (data::text || ' ')::json {at(VICTIM, 2)}"], VICTIM, 2, HASH_WRONG,
    ),
    "metadata altered": ([f"update perdure.events set metadata = '1' {at(VICTIM, 2)}"], VICTIM, 2, HASH_WRONG),
    "time altered": (
        [f"update perdure.events set recorded_at = recorded_at + interval '0.000001' {at(VICTIM, 2)}"],
        VICTIM, 2, HASH_WRONG,
    ),
    "id altered": ([f"update perdure.events set id = gen_random_uuid() {at(VICTIM, 1)}"], VICTIM, 1, HASH_WRONG),
    "schema version altered": (
        [f"update perdure.events set schema_version = 2 {at(VICTIM, 4)}"], VICTIM, 4, HASH_WRONG,
    ),
    "hash altered": ([f"update perdure.events set hash = sha256(hash) {at(VICTIM, 4)}"], VICTIM, 4, HASH_WRONG),
    "altered and hashed anew, as the one who alters can": (
        [
            f"update perdure.events set type = 'Other' {at(VICTIM, 2)}",
            f"""update perdure.events e set hash = perdure.event_hash_v1(
                (select hash from perdure.events {at(VICTIM, 1)}),
                stream, version, id, type, schema_version, recorded_at, data::text, metadata::text, payload_digest)
                {at(VICTIM, 2)}""",
        ],
        VICTIM, 3, HASH_WRONG,
    ),
    "first deleted": ([f"delete from perdure.events {at(VICTIM, 1)}"], VICTIM, 2, "version 1 is missing before it"),
    "one in the middle deleted": (
        [f"delete from perdure.events {at(VICTIM, 2)}"], VICTIM, 3, "version 2 is missing before it",
    ),
    "deleted, and the gap closed": (
        [
            f"delete from perdure.events {at(VICTIM, 2)}",
            f"update perdure.events set version = version - 1 where stream = '{VICTIM}' and version = 3",
            f"update perdure.events set version = version - 1 where stream = '{VICTIM}' and version = 4",
        ],
        VICTIM, 2, HASH_WRONG,
    ),
    "inserted": (
        [
            f"update perdure.events set version = 5 {at(VICTIM, 4)}",
            f"update perdure.events set version = 4 {at(VICTIM, 3)}",
            f"""insert into perdure.events
                (recorded_at, stream, version, schema_version, id, type, data, metadata, hash)
                select recorded_at, stream, 3, schema_version, gen_random_uuid(), 'Forged', data, metadata, hash
                from perdure.events {at(VICTIM, 2)}""",
        ],
        VICTIM, 3, HASH_WRONG,
    ),
    "forged at the end": (
        [
            f"""insert into perdure.events
                (recorded_at, stream, version, schema_version, id, type, data, metadata, hash)
                select recorded_at, stream, 5, schema_version, gen_random_uuid(), 'Forged', data, metadata, sha256(hash)
                from perdure.events {at(VICTIM, 4)}""",
        ],
        VICTIM, 5, HASH_WRONG,
    ),
    "two swapped": (
        [
            f"update perdure.events set version = 100 {at(VICTIM, 2)}",
            f"update perdure.events set version = 2 {at(VICTIM, 3)}",
            f"update perdure.events set version = 3 {at(VICTIM, 100)}",
        ],
        VICTIM, 2, HASH_WRONG,
    ),
    "moved to the end of another stream": (
        [f"update perdure.events set stream = '{AFTER}', version = 5 {at(VICTIM, 4)}"], AFTER, 5, HASH_WRONG,
    ),
    "two streams' events exchanged": (
        [
            f"update perdure.events set version = 100 {at(VICTIM, 1)}",
            f"update perdure.events set stream = '{VICTIM}' {at(BEFORE, 1)}",
            f"update perdure.events set stream = '{BEFORE}', version = 1 {at(VICTIM, 100)}",
        ],
        BEFORE, 1, HASH_WRONG,
    ),
    "payload altered": (
        [f"update perdure.events set payload = 'Other' {at(VICTIM, 3)}"], VICTIM, 3, "its payload was changed",
    ),
    "salt altered": (
        [f"update perdure.events set payload_salt = sha256(payload_salt) {at(VICTIM, 3)}"],
        VICTIM, 3, "its payload was changed",
    ),
    "payload altered and its salt taken away": (
        [f"update perdure.events set payload = 'Other', payload_salt = null {at(VICTIM, 3)}"],
        VICTIM, 3, "its payload's salt is missing",
    ),
    "payload altered and digested anew": (
        [
            f"""update perdure.events set payload = 'Other',
                payload_digest = perdure.payload_digest_v1(payload_salt, 'Other') {at(VICTIM, 3)}""",
        ],
        VICTIM, 3, HASH_WRONG,
    ),
    "payload taken away": (
        [f"update perdure.events set payload = null {at(VICTIM, 3)}"], VICTIM, 3, "its payload's text is missing",
    ),
    "payload and every trace of it taken away": (
        [f"update perdure.events set payload = null, payload_salt = null, payload_digest = null {at(VICTIM, 3)}"],
        VICTIM, 3, HASH_WRONG,
    ),
    "payload given to an event without": (
        [f"update perdure.events set payload = 'Other' {at(VICTIM, 2)}"],
        VICTIM, 2, "it has a payload where none was recorded",
    ),
    "large payload altered": (
        [f"update perdure.payloads set payload = 'Other' {at(LARGE, 3)}"], LARGE, 3, "its payload was changed",
    ),
    "large payload deleted": (
        [f"delete from perdure.payloads {at(LARGE, 3)}"], LARGE, 3, "its payload's text is missing",
    ),
}  # fmt: skip


IN_THE_LOG = {
    # In the order of position another event may be the first bad one.
    "inserted": (VICTIM, 4, "version 3 comes after it, at position "),
    "two swapped": (VICTIM, 3, "version 2 comes after it, at position 7"),
    "moved to the end of another stream": (AFTER, 5, "version 4 comes after it, at position 16"),
    "two streams' events exchanged": (VICTIM, 1, HASH_WRONG),
}


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with opened(database_url) as engine:
        async with running(engine) as appender:
            for stream in (BEFORE, VICTIM, LARGE, AFTER):
                payload = b"x" * 10_000 if stream == LARGE else b"Ada"
                head = (await appender.append(new_stream(2, stream=stream))).head
                one = new_stream(1, payload=payload, stream=stream)
                head = (await appender.append(type(one)(stream, head, one.events))).head
                await appender.append(more(stream, head))
        yield engine


async def check(engine: AsyncEngine, stream: UUID | None = None) -> Progress:
    async with raw_connection(engine) as connection:
        return [progress async for progress in verify(connection, stream=stream)][-1]


async def test_a_log_that_nobody_touched_is_whole(engine: AsyncEngine) -> None:
    found = await check(engine)
    assert (found.events, found.streams, found.fault) == (16, 4, None)


@pytest.mark.parametrize("alone", [False, True], ids=["in the log", "the stream alone"])
async def test_the_first_bad_event_is_named(
    engine: AsyncEngine, database_url: str, subtests: pytest.Subtests, alone: bool
) -> None:
    with keeping_the_log(database_url) as restore:
        for tampering, (statements, stream, version, reason) in TAMPERINGS.items():
            with subtests.test(tampering):
                tamper(database_url, *statements)
                fault = (await check(engine, stream if alone else None)).fault
                if not alone:
                    stream, version, reason = IN_THE_LOG.get(tampering, (stream, version, reason))
                assert fault is not None
                assert (fault.stream, fault.version) == (stream, version)
                assert fault.reason.startswith(reason)
                assert f"stream {stream}, version {version}): {reason}" in str(fault)
            restore()
    assert (await check(engine)).fault is None


async def test_of_several_bad_events_the_first_is_named_and_the_rest_not_read(
    engine: AsyncEngine, database_url: str
) -> None:
    tamper(database_url, f"update perdure.events set type = 'Other' where stream in ('{VICTIM}', '{AFTER}')")
    fault = (await check(engine)).fault
    assert fault is not None
    assert fault.position == 5


async def test_one_stream_can_be_checked_alone(engine: AsyncEngine, database_url: str) -> None:
    tamper(database_url, f"update perdure.events set type = 'Other' {at(VICTIM, 2)}")
    found = await check(engine, BEFORE)
    assert (found.events, found.streams, found.fault) == (4, 1, None)
    assert (await check(engine, VICTIM)).fault is not None


ERASE = "update perdure.events set payload = null, payload_salt = null where stream in ('{}', '{}')"


async def test_an_erased_payload_leaves_the_chain_whole_where_its_erasure_is_recorded(
    engine: AsyncEngine, database_url: str
) -> None:
    async with running(engine) as appender:
        for stream in (VICTIM, LARGE):
            async with reading(engine) as reader:
                head = await reader.head(stream)
            await appender.append(Append(stream, head, [NewEvent("PayloadsErased")]))
    tamper(database_url, ERASE.format(VICTIM, LARGE), f"delete from perdure.payloads where stream = '{LARGE}'")
    assert (await check(engine)).fault is None
    assert (await check(engine, VICTIM)).fault is None


async def test_a_payload_that_is_gone_without_an_erasure_is_named(engine: AsyncEngine, database_url: str) -> None:
    async with running(engine) as appender:
        async with reading(engine) as reader:
            head = await reader.head(VICTIM)
        appended = await appender.append(Append(VICTIM, head, [NewEvent("PayloadsErased")]))
        later = [NewEvent("Happened", payload=b"Eve")]
        await appender.append(Append(VICTIM, appended.head, later))
    with keeping_the_log(database_url) as restore:
        for stream, version in ((BEFORE, 3), (LARGE, 3), (VICTIM, 6)):
            tamper(database_url, ERASE.format(stream, stream), f"delete from perdure.payloads {at(stream, version)}")
            fault = (await check(engine)).fault
            assert fault is not None
            assert (fault.stream, fault.version) == (stream, version)
            assert fault.reason == "its payload is missing and no erasure is recorded"
            restore()


async def test_a_field_that_is_null_is_named(engine: AsyncEngine, database_url: str) -> None:
    tamper(
        database_url,
        "alter table perdure.events alter data drop not null",
        f"update perdure.events set data = null {at(VICTIM, 2)}",
    )
    fault = (await check(engine)).fault
    assert fault is not None
    assert (fault.stream, fault.version, fault.reason) == (VICTIM, 2, "one of its fields is null, or infinite")


async def test_a_time_without_end_is_named(engine: AsyncEngine, database_url: str) -> None:
    tamper(database_url, f"update perdure.events set recorded_at = 'infinity' {at(VICTIM, 2)}")
    fault = (await check(engine)).fault
    assert fault is not None
    assert (fault.stream, fault.version, fault.reason) == (VICTIM, 2, "one of its fields is null, or infinite")


async def test_streams_are_followed_though_more_of_them_than_are_remembered(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chains, "REMEMBERED", 10)
    monkeypatch.setattr(verification, "_PAGE", 7)
    streams = [UUID(int=n, version=4) for n in range(100, 150)]
    async with running(engine) as appender:
        heads = dict.fromkeys(streams, NO_STREAM)
        for _ in range(3):
            for stream in streams:
                heads[stream] = (await appender.append(more(stream, heads[stream]))).head
    found = await check(engine)
    assert (found.events, found.streams, found.fault) == (166, 54, None)
    tamper(database_url, f"update perdure.events set hash = sha256(hash) {at(streams[40], 2)}")
    fault = (await check(engine)).fault
    assert fault is not None
    assert (fault.stream, fault.version) == (streams[40], 2)


async def test_a_log_longer_than_a_batch_is_checked_to_its_end(engine: AsyncEngine, database_url: str) -> None:
    last = UUID(int=9, version=4)
    async with running(engine) as appender:
        await appender.append(new_stream(4_500, stream=last))
    assert (await check(engine)).events == 4_516
    tamper(database_url, f"update perdure.events set type = 'Other' {at(last, 4_500)}")
    fault = (await check(engine)).fault
    assert fault is not None and fault.version == 4_500


async def test_what_is_not_settled_yet_is_left_out(engine: AsyncEngine, database_url: str) -> None:
    with psycopg.connect(database_url) as writing:
        writing.execute("select nextval('perdure.events_position_seq')")
        monkeyed = asyncio.create_task(check(engine))
        await asyncio.sleep(0.2)
        assert not monkeyed.done()
        writing.rollback()
        found = await monkeyed
    assert (found.events, found.fault, found.end) == (16, None, 16)


async def test_an_empty_log_is_whole(database_url: str) -> None:
    async with opened(database_url) as engine, raw_connection(engine) as connection:
        (found,) = [progress async for progress in verify(connection)]
        assert (found.events, found.streams, found.fault) == (0, 0, None)


async def test_a_payload_that_is_erased_while_its_page_is_checked_is_no_fault(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = new_stream(3, payload=b'"' + b"x" * 20_000 + b'"')
    async with opened(database_url) as engine:
        async with running(engine) as appender:
            await appender.append(large)
            await appender.append(new_stream(3))
        fetch, erased = Borrowed.fetch, list[bool]()

        async def fetch_and_erase(self: Borrowed, statement: str, parameters: Sequence[object] = ()) -> list[object]:
            found = await fetch(self, statement, parameters)
            if "order by position limit" in statement and found and not erased:
                erased.append(True)
                rows(database_url, "select perdure.erase_payloads(%s, 100, '', '')", (large.stream,))
            return found

        monkeypatch.setattr(Borrowed, "fetch", fetch_and_erase)
        async with raw_connection(engine) as connection:
            last = [step async for step in verify(connection)][-1]
        assert erased and last.fault is None

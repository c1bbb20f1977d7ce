"""What no chain shows, the tree and its heads do: tails cut off, streams gone, histories rewritten."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from uuid import UUID

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from logs import execute, keeping_the_log, new_stream, opened, rows, running, tamper
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.append import Append
from perdure_eventstore.checking.faults import Fault
from perdure_eventstore.database import raw_connection
from perdure_eventstore.events import Head, NewEvent
from perdure_eventstore.head_keeper import HeadKeeper
from perdure_eventstore.heads import HeadRefused
from perdure_eventstore.session import Borrowed
from perdure_eventstore.verify import Progress, verify

pytestmark = pytest.mark.every_postgres

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
STREAMS = [UUID(int=n, version=4) for n in range(140)]
"""Of 10 events each, one after another: stream n has the positions 10 n + 1 to 10 n + 10. Chunks end at 256, 512, …"""


async def sign_head(engine: AsyncEngine, mark: int = 2**40, key: Ed25519PrivateKey = KEY) -> str:
    keeper = HeadKeeper(engine, "perdure", key)
    try:
        return (await keeper.sign(mark)).note
    finally:
        await keeper.close()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """1,400 events; heads at 700, 1,100 and 1,390, so that 10 events are seen by nobody but the chains."""
    async with opened(database_url) as engine:
        async with running(engine) as appender:
            for number, stream in enumerate(STREAMS):
                await appender.append(new_stream(10, stream=stream))
                if number + 1 in (70, 110, 139):
                    await sign_head(engine)
        yield engine


async def check(engine: AsyncEngine, heads: Sequence[str] = (), keys: Sequence[Ed25519PrivateKey] = ()) -> Progress:
    async with raw_connection(engine) as connection:
        public = [key.public_key() for key in keys]
        return [each async for each in verify(connection, heads=heads, heads_from="outside", keys=public)][-1]


def notes(url: str) -> list[str]:
    return [note for (note,) in rows(url, "select note from perdure.heads order by size")]


HASHED_ANEW = """do $$
    declare e record; previous bytea;
    begin
        for e in select * from perdure.events where stream = '{0}' order by version loop
            previous := perdure.event_hash_v1(previous, e.stream, e.version, e.id, e.type, e.schema_version,
                e.recorded_at, e.data::text, e.metadata::text, e.payload_digest);
            update perdure.events set hash = previous where position = e.position;
        end loop;
    end $$"""

REWRITTEN_TREE = """do $$
    declare n bigint; made bytea[]; upper bytea[];
    begin
        for n in select number from perdure.tree_chunks loop
            update perdure.tree_chunks c set leaves = l.leaves from (
                select string_agg(int8send(position) || hash, ''::bytea order by position) as leaves
                from perdure.events where position between n * 256 + 1 and n * 256 + 256) l where c.number = n;
            select array_agg(sha256('\\x00'::bytea || substring(leaves from i * 40 + 1 for 40)) order by i) into made
            from perdure.tree_chunks, generate_series(0, 255) i where number = n;
            while array_length(made, 1) > 1 loop
                select array_agg(sha256('\\x01'::bytea || made[i] || made[i + 1]) order by i) into upper
                from generate_series(1, array_length(made, 1), 2) i;
                made := upper;
            end loop;
            update perdure.tree_chunks set root = made[1] where number = n;
        end loop;
        update perdure.tree_nodes t set hash = sha256('\\x01'::bytea || a.root || b.root)
        from perdure.tree_chunks a, perdure.tree_chunks b
        where level = 9 and a.number = 2 * t.number and b.number = 2 * t.number + 1;
        update perdure.tree_nodes t set hash = sha256('\\x01'::bytea || a.hash || b.hash)
        from perdure.tree_nodes a, perdure.tree_nodes b
        where t.level = 10 and a.level = 9 and b.level = 9 and a.number = 2 * t.number and b.number = 2 * t.number + 1;
    end $$"""


def at_will(*statements: str) -> list[str]:
    """Statements that choose positions."""
    column = "alter table perdure.events alter column position set generated"
    return [f"{column} by default", *statements, f"{column} always"]


IN_ITS_PLACE = "it is not the event that the tree took in here"
GONE = "it is missing: the tree took in an event here, and no archived stream had it"
FOREIGN = "the tree has no event here: it was inserted, or moved here"

TAMPERINGS: dict[str, tuple[list[str], int | None, str]] = {
    "a stream's tail cut off": (
        [f"delete from perdure.events where stream = '{STREAMS[5]}' and version > 7"], 58, GONE,
    ),
    "a whole stream gone": ([f"delete from perdure.events where stream = '{STREAMS[30]}'"], 301, GONE),
    "a whole stream gone that lies across two chunks": (
        [f"delete from perdure.events where stream = '{STREAMS[25]}'"], 251, GONE,
    ),
    "a stream's end rewritten with right hashes": (
        [
            f"update perdure.events set type = 'Other' where stream = '{STREAMS[5]}' and version = 4",
            HASHED_ANEW.format(STREAMS[5]),
        ],
        54, IN_ITS_PLACE,
    ),
    "a stream put in another's place, with right hashes": (
        [
            f"delete from perdure.events where stream = '{STREAMS[5]}'",
            f"update perdure.events set stream = '{UUID(int=999)}' where stream = '{STREAMS[6]}'",
            HASHED_ANEW.format(UUID(int=999)),
            *at_will("update perdure.events set position = position - 10 where position between 61 and 70"),
        ],
        51, IN_ITS_PLACE,
    ),
    "the events of two streams swapped": (
        at_will(
            "update perdure.events set position = 100000 where position = 60",
            "update perdure.events set position = 60 where position = 61",
            "update perdure.events set position = 61 where position = 100000",
        ),
        60, IN_ITS_PLACE,
    ),
    "a stream moved to other positions": (
        at_will("update perdure.events set position = position + 100000 where position between 51 and 60"), 51, GONE,
    ),
    "an event moved to where nobody reads": (
        at_will("update perdure.events set position = -5 where position = 51"),
        -5, "no event has a position below 1",
    ),
    "the log cut off in a chunk": (["delete from perdure.events where position > 1200"], 1201, GONE),
    "the log cut off at the end of a chunk": (["delete from perdure.events where position > 1024"], 1025, GONE),
    "the log emptied": (["delete from perdure.events"], 1, GONE),
    "the log cut off after the last chunk": (
        ["delete from perdure.events where position > 1380"], None,
        r"the head of 1390 events signed at .* UTC \(in the database\) has 10 events more than the log: as many were "
        r"cut off or removed, after position 1100 and up to 1390",
    ),
    "log and tree cut off": (
        ["delete from perdure.events where position > 1200", "delete from perdure.tree_chunks where number > 3"], None,
        r"the head of 1390 events .* has 190 events more than the log: .* after position 1100 and up to 1390",
    ),
    "rewritten where no chunk is complete yet": (
        [
            f"update perdure.events set type = 'Other' where stream = '{STREAMS[135]}' and version = 1",
            HASHED_ANEW.format(STREAMS[135]),
        ],
        None,
        r"the head of 1390 events .* has another root: after position 1100 and up to 1390, an event was changed, "
        r"moved, inserted or removed",
    ),
    "tree and log rewritten": (
        [
            f"update perdure.events set type = 'Other' where stream = '{STREAMS[5]}' and version = 4",
            HASHED_ANEW.format(STREAMS[5]), REWRITTEN_TREE,
        ],
        None, r"the head of 700 events .* has another root: after position 0 and up to 700, an event was changed",
    ),
    "a chunk's leaf altered": (
        ["update perdure.tree_chunks set leaves = overlay(leaves placing '\\x00' from 30) where number = 2"],
        513, IN_ITS_PLACE,
    ),
    "a chunk's root altered": (
        ["update perdure.tree_chunks set root = sha256(root) where number = 2"], None,
        r"chunk 2 of the tree \(positions 513 to 768\) was changed: its root or its positions are not those of its",
    ),
    "a chunk's positions altered": (
        ["update perdure.tree_chunks set last_position = 9223372036854775807 where number = 2"], None,
        r"chunk 2 of the tree \(positions 513 to 768\) was changed",
    ),
    "a chunk cut short": (
        ["update perdure.tree_chunks set leaves = substring(leaves for 400) where number = 2"], None,
        r"chunk 2 of the tree was changed: it has not 256 leaves",
    ),
    "a chunk deleted": (
        ["delete from perdure.tree_chunks where number = 2"], None,
        r"chunk 2 of the tree is missing, and chunk 3 is there",
    ),
    "the last chunk deleted": (
        ["delete from perdure.tree_chunks where number = 4"], None,
        r"chunk 4 of the tree is missing, and the head of 1390 events .* was signed over it",
    ),
    "a node altered": (
        ["update perdure.tree_nodes set hash = sha256(hash) where level = 9 and number = 1"], None,
        "node 1 of level 9 of the tree is missing or was changed",
    ),
    "a node deleted": (
        ["delete from perdure.tree_nodes where level = 10"], None,
        "node 0 of level 10 of the tree is missing or was changed",
    ),
    "a node inserted": (
        ["insert into perdure.tree_nodes values (9, 2, '')"], None,
        "node 2 of level 9 of the tree stands above chunks that are not there",
    ),
    "a head's root altered": (
        ["update perdure.heads set root = sha256(root) where size = 1100"], None,
        r"the head of 1100 events .* was changed: its note says something else than its row",
    ),
    "a head's note altered": (
        ["update perdure.heads set note = replace(note, 'perdure/', 'perdure-') where size = 1100"], None,
        r"the head of 1100 events in the database is none|the head of 1100 events .* was changed",
    ),
    "a large payload inserted for no event": (
        [f"insert into perdure.payloads values ('{UUID(int=999)}', 1, 'x')"], None,
        f"stream {UUID(int=999)} has a payload at version 1, and no event there",
    ),
    "a large payload inserted for an event without": (
        [f"insert into perdure.payloads values ('{STREAMS[5]}', 1, 'x')"],
        51, "it has a payload where none was recorded",
    ),
}  # fmt: skip


async def test_a_log_that_nobody_touched_is_whole(engine: AsyncEngine, database_url: str) -> None:
    found = await check(engine, notes(database_url), [OTHER, KEY])
    assert (found.events, found.streams, found.heads, found.fault) == (1_400, 140, 6, None)


async def test_what_no_chain_shows_is_found_and_named(
    engine: AsyncEngine, database_url: str, subtests: pytest.Subtests
) -> None:
    with keeping_the_log(database_url) as restore:
        for tampering, (statements, position, reason) in TAMPERINGS.items():
            with subtests.test(tampering):
                tamper(database_url, *statements)
                named(await check(engine), position, reason)
            restore()
    assert (await check(engine)).fault is None


def named(found: Progress, position: int | None, reason: str) -> None:
    assert found.fault is not None
    assert found.fault.position == position
    assert re.match(reason, found.fault.reason), found.fault.reason


async def test_an_event_with_another_hash_is_named_with_its_stream(engine: AsyncEngine, database_url: str) -> None:
    statements, *_ = TAMPERINGS["a stream's end rewritten with right hashes"]
    tamper(database_url, *statements)
    assert (await check(engine)).fault == Fault(54, STREAMS[5], 4, "Other", IN_ITS_PLACE)


async def test_with_tree_and_heads_rewritten_too_only_what_was_published_shows_it(
    engine: AsyncEngine, database_url: str
) -> None:
    published = notes(database_url)
    statements, *_ = TAMPERINGS["tree and log rewritten"]
    tamper(database_url, *statements, "delete from perdure.heads")
    assert (await check(engine)).fault is None
    await sign_head(engine, key=OTHER)
    assert (await check(engine)).fault is None
    found = await check(engine, published)
    named(found, None, r"the head of 700 events signed at .* UTC \(outside\) has another root: after position 0 and up")
    named(await check(engine, keys=[KEY]), None, r"the head of 1400 events .* is not signed with the key given")


async def test_with_the_log_cut_and_everything_else_too_the_published_head_shows_it(
    engine: AsyncEngine, database_url: str
) -> None:
    published = notes(database_url)
    cut = [
        f"delete from perdure.{table} where {where}"
        for table, where in {
            "events": "position > 1000",
            "tree_chunks": "last_position > 1000",
            "heads": "size > 1000",
        }.items()
    ]
    tamper(database_url, *cut, "delete from perdure.tree_nodes where (number + 1) << (level - 8) > 3")
    assert (await check(engine)).fault is None
    named(
        await check(engine, published), None, r"the head of 1100 events .* \(outside\) has 100 events more than the log"
    )


async def test_another_logs_heads_and_ill_signed_ones_are_refused(engine: AsyncEngine, database_url: str) -> None:
    published = notes(database_url)
    with pytest.raises(HeadRefused, match=r"the head of 700 events .* \(outside\) is not signed with the key given"):
        await check(engine, published, [OTHER])
    foreign = published[0].replace("perdure/", "perdure/f")
    with pytest.raises(HeadRefused, match="outside holds heads of another log: perdure/f"):
        await check(engine, [foreign])


async def test_a_log_whose_tree_is_behind_or_was_never_grown_is_whole(database_url: str) -> None:
    async with opened(database_url) as engine:
        async with running(engine) as appender:
            await appender.append(new_stream(700))
        assert (await check(engine)).events == 700
        await sign_head(engine)
        async with running(engine) as appender:
            await appender.append(new_stream(700))
        found = await check(engine)
        assert (found.events, found.heads, found.fault) == (1_400, 1, None)


async def test_an_event_inserted_between_two_others_is_named(database_url: str) -> None:
    forged = UUID(int=999)
    async with opened(database_url) as engine:
        async with running(engine) as appender:
            await appender.append(new_stream(300))
            execute(database_url, "select nextval('perdure.events_position_seq')")
            await appender.append(new_stream(300))
        await sign_head(engine)
        insert = f"""insert into perdure.events
            (position, recorded_at, stream, version, schema_version, id, type, data, metadata, hash)
            overriding system value
            select POSITION, now(), '{forged}', 1, 1, '{forged}', 'Forged', '{{}}', '{{}}', ''"""
        with keeping_the_log(database_url) as restore:
            for position in (301, 1000):
                tamper(database_url, insert.replace("POSITION", str(position)), HASHED_ANEW.format(forged))
                found = await check(engine)
                restore()
                if position == 301:
                    assert found.fault == Fault(301, forged, 1, "Forged", FOREIGN)
                else:
                    # At the end, that is how events are appended: what is in no head yet, anybody may write.
                    assert found.fault is None


async def archive(
    engine: AsyncEngine, url: str, stream: UUID, type_: str = "StreamArchived", more: Mapping[str, object] | None = None
) -> None:
    """What retention will do: an event that says what is gone, and then it is."""
    gone = rows(url, f"select version, hash, position from perdure.events where stream = '{stream}' order by version")
    version, hash_, last = gone[-1]
    data = {"versions": version, "head": hash_.hex(), "positions": [[gone[0][2], last]], **(more or {})}
    async with running(engine) as appender:
        event = NewEvent(type_, data=orjson.dumps(data))
        await appender.append(Append(stream, Head(version, hash_), [event]))
    tamper(url, f"delete from perdure.events where stream = '{stream}' and version <= {version}")


def archived(url: str, *streams: UUID) -> None:
    ids = ", ".join(f"('{stream}'::uuid)" for stream in streams)
    execute(
        url,
        "create or replace function perdure.archived_streams(first_position bigint, last_position bigint)"
        f" returns setof uuid language sql stable as $$ values {ids} $$",
    )


async def test_what_retention_removed_is_not_missed(engine: AsyncEngine, database_url: str) -> None:
    for number in (25, 5, 30):
        await archive(engine, database_url, STREAMS[number])
    archived(database_url, *STREAMS[:100])
    found = await check(engine, notes(database_url), [KEY])
    assert (found.events, found.streams, found.heads, found.fault) == (1_373, 137, 6, None)
    await sign_head(engine)
    assert (await check(engine)).fault is None


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, None),
        ({"versions": 9}, "it does not say how the stream that it archives ended"),
        ({"head": "00"}, "its hash does not match: it, or its place in the stream, was changed"),
    ],
)
async def test_an_archived_stream_is_checked_alone(
    engine: AsyncEngine, database_url: str, more: dict[str, object], reason: str | None
) -> None:
    await archive(engine, database_url, STREAMS[25], more=more)
    async with raw_connection(engine) as connection:
        found = [progress async for progress in verify(connection, stream=STREAMS[25])][-1]
    assert (found.fault and found.fault.reason) == reason


@pytest.mark.parametrize(
    ("more", "position", "reason"),
    [
        ({"positions": [[251, 259]]}, 251, GONE),
        ({"positions": [[252, 261]]}, 251, GONE),
        ({"positions": [[251, 261]]}, 251, GONE),
        ({"positions": []}, 251, GONE),
        ({"positions": None}, 251, GONE),
        ({"head": "00" * 32}, 260, "a stream is archived as having ended here, and the tree took in another event"),
        ({"versions": 9}, 251, GONE),
    ],
)
async def test_an_archived_stream_accounts_for_what_it_says_and_no_more(
    engine: AsyncEngine, database_url: str, more: dict[str, object], position: int, reason: str
) -> None:
    await archive(engine, database_url, STREAMS[25], more=more)
    archived(database_url, STREAMS[25])
    named(await check(engine), position, reason)


async def test_a_stream_is_archived_by_its_event_and_not_because_a_table_says_so(
    engine: AsyncEngine, database_url: str
) -> None:
    tamper(database_url, f"delete from perdure.events where stream = '{STREAMS[30]}'")
    await archive(engine, database_url, STREAMS[25], "Happened")
    archived(database_url, STREAMS[25], STREAMS[30])
    named(await check(engine), 251, GONE)


async def test_it_is_checked_beside_writers_and_signers(engine: AsyncEngine, database_url: str) -> None:
    done = asyncio.Event()

    async def write(appended: Callable[[], None]) -> None:
        async with running(engine) as appender:
            while not done.is_set():
                await appender.append(new_stream(50))
                appended()
                await asyncio.sleep(0.02)

    async def sign_all() -> None:
        while not done.is_set():
            await sign_head(engine)
            await asyncio.sleep(0.005)

    count = 0

    def appended() -> None:
        nonlocal count
        count += 1

    work = [asyncio.create_task(write(appended)), asyncio.create_task(sign_all())]
    checks = 0
    while checks < 6 or count <= 10:
        found = await check(engine, notes(database_url))
        assert found.fault is None
        checks += 1
    done.set()
    await asyncio.gather(*work)


@pytest.mark.parametrize("removed", [False, True])
async def test_a_head_signed_while_its_events_are_checked_is_no_fault(
    database_url: str, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    async with opened(database_url) as engine:
        async with running(engine) as appender:
            await appender.append(new_stream(600))
        fetch = Borrowed.fetch
        signed: list[str] = []

        async def fetch_and_sign(self: Borrowed, statement: str, parameters: Sequence[object] = ()) -> list[object]:
            found = await fetch(self, statement, parameters)
            if "tree_chunks where number >=" in statement and not signed:
                assert not found
                signed.append(await sign_head(engine))
                if removed:
                    tamper(database_url, "delete from perdure.tree_chunks where number = 1")
            return found

        monkeypatch.setattr(Borrowed, "fetch", fetch_and_sign)
        found = await check(engine)
        assert signed
        if removed:
            assert found.fault and found.fault.reason.startswith("chunk 0 of the tree is missing, and the head of 600")
        else:
            assert (found.fault, found.heads) == (None, 1)

"""A check goes on from where an earlier one had come to, and its memory does not grow with the log."""

import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from command_line import environment, perdure
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from logs import execute, new_stream, opened, rows, running, tamper
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.database import raw_connection
from perdure_eventstore.head_keeper import HeadKeeper
from perdure_eventstore.verify import Place, PlaceRefused, Progress, verify

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


async def append(engine: AsyncEngine, events: int, stream: int = 50) -> None:
    async with running(engine) as appender:
        for _ in range(events // stream):
            await appender.append(new_stream(stream))


async def sign(engine: AsyncEngine) -> str:
    keeper = HeadKeeper(engine, "perdure", KEY)
    try:
        return (await keeper.sign(2**40)).note
    finally:
        await keeper.close()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """3,050 events, signed at 2,050."""
    async with opened(database_url) as engine:
        await append(engine, 2_050)
        await sign(engine)
        await append(engine, 1_000)
        yield engine


async def check(engine: AsyncEngine, place: Place | None = None, **options: Any) -> list[Progress]:
    async with raw_connection(engine) as connection:
        return [progress async for progress in verify(connection, place=place, **options)]


def place_of(progress: Progress) -> Place:
    assert progress.place is not None
    return msgspec.json.decode(msgspec.json.encode(progress.place), type=Place)


async def test_it_goes_on_from_every_place_to_the_same_end(engine: AsyncEngine) -> None:
    straight = await check(engine)
    assert len(straight) > 5
    for step in straight:
        place = place_of(step)
        assert place.events == place.position == place.tree["size"]
        found = (await check(engine, place))[-1]
        assert (found.events, found.streams, found.heads, found.fault) == (3_050, 61, 1, None)


async def test_what_was_checked_is_not_read_again_and_what_was_not_is(engine: AsyncEngine, database_url: str) -> None:
    place = place_of((await check(engine))[2])
    before = f"update perdure.events set type = 'Other' where position = {place.position}"
    after = f"update perdure.events set type = 'Other' where position = {place.position + 1}"
    tamper(database_url, before)
    assert (await check(engine, place))[-1].fault is None
    tamper(database_url, after)
    fault = (await check(engine, place))[-1].fault
    assert fault is not None and fault.position == place.position + 1


async def test_what_is_appended_later_is_checked_then(engine: AsyncEngine, database_url: str) -> None:
    place = place_of((await check(engine))[-1])
    await append(engine, 500)
    found = (await check(engine, place))[-1]
    assert (found.events, found.streams, found.fault) == (3_550, 71, None)
    tamper(database_url, "delete from perdure.events where position = 3541")
    assert (await check(engine, place))[-1].fault is not None


async def test_a_log_that_is_no_longer_the_one_of_the_place_is_named(engine: AsyncEngine, database_url: str) -> None:
    place = place_of((await check(engine))[2])
    forged = [
        "delete from perdure.tree_chunks",
        "delete from perdure.tree_nodes",
        "delete from perdure.heads",
        "update perdure.events set hash = sha256(hash) where position = 50",
    ]
    tamper(database_url, *forged)
    fault = (await check(engine, place))[-1].fault
    assert fault is not None
    assert "the tree at the place of the earlier check cannot be found again" in fault.reason
    await sign(engine)
    fault = (await check(engine, place))[-1].fault
    assert fault is not None
    assert "the tree at the place of the earlier check had another root than" in fault.reason


async def test_a_published_head_of_what_was_checked_before_counts_too(engine: AsyncEngine, database_url: str) -> None:
    (published,) = rows(database_url, "select note from perdure.heads")[0]
    await append(engine, 300, stream=100)
    await sign(engine)
    place = place_of((await check(engine))[-1])
    assert place.tree["size"] > 2_050
    assert (await check(engine, place, heads=[published]))[-1].fault is None
    forged = published.replace(published.splitlines()[2], "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    fault = (await check(engine, place, heads=[forged], heads_from="heads.txt"))[-1].fault
    assert fault is not None
    assert "(heads.txt) had another root than the 2050 events have now" in fault.reason


async def test_a_place_in_another_log_is_refused(engine: AsyncEngine) -> None:
    place = place_of((await check(engine))[-1])
    with pytest.raises(PlaceRefused, match=r"the check that is to go on was of the log .* and this is"):
        await check(engine, msgspec.structs.replace(place, log_id=uuid4()))
    with pytest.raises(PlaceRefused, match=r"in the schema 'shop', and this is .* in 'perdure'"):
        await check(engine, msgspec.structs.replace(place, schema="shop"))
    with pytest.raises(PlaceRefused, match="makes no sense: 0 subtree roots cannot be those of a tree of 5 leaves"):
        await check(engine, msgspec.structs.replace(place, tree={"size": 5, "peaks": []}))


CHECK_AND_HURRY = """
import sys
from perdure.cli import verify_place, status_of
verify_place._EVERY = 0.0
sys.exit(status_of(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_a_check_that_was_killed_goes_on(database_url: str, tmp_path: Path, number: int) -> None:
    async with opened(database_url) as engine:
        await append(engine, 60_000, stream=1_000)
        await sign(engine)
    file = tmp_path / "place"
    arguments = ["verify", "--json", "--database", database_url, "--resume", str(file)]
    with subprocess.Popen(
        [sys.executable, "-c", CHECK_AND_HURRY, *arguments],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 30
        while not file.exists() or msgspec.json.decode(file.read_bytes(), type=Place).position < 5_000:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate()
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    place = msgspec.json.decode(file.read_bytes(), type=Place)
    assert 5_000 <= place.position < 60_000
    answer = perdure(tmp_path, *arguments)
    assert answer.status == 0, answer.err
    assert answer.lines == [{"events": 60_000, "streams": 60, "heads": 1, "fault": None}]
    assert f"going on after position {place.position}: {place.events} events were checked before" in answer.err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("place") and path != file] == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("no JSON", "is not the place of a check"),
        ('{"log_id": "x"}', "is not the place of a check"),
        (None, "cannot be read: Is a directory"),
    ],
)
async def test_a_file_that_holds_no_place_is_refused(
    database_url: str, tmp_path: Path, content: str | None, sentence: str
) -> None:
    file = tmp_path / "place"
    file.write_text(content) if content is not None else file.mkdir()
    answer = perdure(tmp_path, "verify", "--json", "--database", database_url, "--resume", str(file))
    assert answer.status == 2
    assert sentence in answer.err


MEASURE = """
import asyncio, resource, sys
from perdure_eventstore.database import open_engine, raw_connection
from perdure_eventstore.verify import verify

async def main():
    engine = open_engine(sys.argv[1])
    async with raw_connection(engine) as connection:
        async for progress in verify(connection):
            pass
    assert progress.fault is None
    print(progress.events, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

asyncio.run(main())
"""


async def test_memory_stays_flat(database_url: str) -> None:
    """Kilobytes at 10,000 events and at 80,000, in processes of their own."""
    execute(database_url, "set synchronous_commit = off")
    measured = []
    async with opened(database_url) as engine:
        for events in (10_000, 70_000):
            await append(engine, events, stream=100)
            command = [sys.executable, "-c", MEASURE, database_url]
            done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True, timeout=120)
            measured.append([int(word) for word in done.stdout.split()])
    (few, before), (many, after) = measured
    assert (few, many) == (10_000, 80_000)
    assert after < before + 8 * 1024


async def test_where_no_tree_is_kept_a_check_goes_on_from_the_beginning_and_counts_each_head_once(
    database_url: str, tmp_path: Path
) -> None:
    async with opened(database_url) as engine:
        await append(engine, 1_000, stream=100)
        arguments = ["verify", "--json", "--database", database_url, "--resume", str(tmp_path / "place")]
        assert perdure(tmp_path, *arguments).status == 0
        tamper(database_url, "update perdure.events set type = 'Other' where position = 10")
        changed = perdure(tmp_path, *arguments)
        assert (changed.status, changed.lines[0]["fault"]["position"]) == (1, 10)
        tamper(database_url, "update perdure.events set type = 'Happened' where position = 10")
        await sign(engine)
        assert [perdure(tmp_path, *arguments).lines[0]["heads"] for _ in range(3)] == [1, 1, 1]

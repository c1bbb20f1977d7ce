"""The disk is full: no room for tables (appends fail), or for the write-ahead log (the server dies). Then there is."""

import asyncio
import random
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import anyio
import psycopg
import pytest
from acceptance.forks import ForkServer
from bad_days.crowd import Crowd
from bad_days.notes import WriterNotes, named_append
from bad_days.servers import Servers, Version
from bad_days.small_disk import SmallDisk, small_disk
from logs import opened, running
from postgres_server import PostgresServer

from perdure_eventstore.errors import LogUnavailable
from perdure_eventstore.events import NO_STREAM

MEGABYTES = 200
EVENTS = 100


@pytest.fixture(params=["tables", "write-ahead log"])
def full(
    request: pytest.FixtureRequest, servers: Servers, version: Version
) -> Iterator[tuple[PostgresServer, SmallDisk]]:
    """A running server that has one or the other on a small disk."""
    with servers.stopped(version) as server, small_disk(server.folder / "small", MEGABYTES) as disk:
        if request.param == "tables":
            server.move_data(disk.folder / "data")
            (wal := server.folder / "wal").mkdir(mode=0o700)
        else:
            (wal := disk.folder / "wal").mkdir(mode=0o700)
        server.move_wal(wal)
        server.start()
        yield server, disk
        server.stop("immediate")


async def refused_with_a_sentence(url: str, notes: WriterNotes) -> str:
    """Append until it does not go on, and return what was said."""
    async with opened(url, connect_timeout=2) as engine, running(engine, patience=0.5) as appender:
        with anyio.fail_after(60):
            while True:
                payload = b'"' + random.randbytes(50_000).hex().encode() + b'"'
                append = named_append(uuid4(), NO_STREAM, 1, payload)
                number = notes.sent(append)
                try:
                    notes.told(number, "acknowledged", await appender.append(append))
                except LogUnavailable as error:
                    return str(error)


async def back(server: PostgresServer) -> None:
    """Until it takes connections; it is started if it has given up."""
    with anyio.fail_after(60):
        while True:
            if not server.runs:
                await asyncio.to_thread(server.start)
            try:
                psycopg.connect(server.url).close()
                return
            except psycopg.OperationalError:
                await asyncio.sleep(0.1)


async def test_on_a_full_disk_appends_wait_or_are_refused_and_none_that_was_acknowledged_is_lost(
    full: tuple[PostgresServer, SmallDisk], forks: ForkServer, tmp_path: Path
) -> None:
    server, disk = full
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    crowd = Crowd(forks, tmp_path, server.url, seed)
    crowd.start_reader()
    for _ in range(2):
        crowd.start_writer(careless=False)
    await crowd.until_read(EVENTS)
    disk.fill()
    said = await refused_with_a_sentence(server.url, crowd.own_notes())
    print(said)
    assert re.search("No space left on device|database cannot be reached|connection|recovery", said), said
    disk.free()
    await back(server)
    await crowd.until_read(EVENTS)
    verdict = await crowd.end()
    assert verdict.findings == []
    # The crowd waited, and it was worth it; the one without patience does not know.
    assert verdict.counts["appends unknown"] == 1

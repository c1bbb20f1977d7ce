"""An import killed with -9 leaves nothing and is simply run again; neither way takes more memory for a longer log."""

import os
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid5

import pytest
from command_line import environment
from logs import opened, rows
from transfers import LOG, another_log, content, exported, import_lines, url_of

from perdure_eventstore.events import NO_STREAM, RecordedEvent
from perdure_eventstore.hashing import event_hash, payload_digest
from perdure_eventstore.transfer.entry import Entry, microseconds
from perdure_eventstore.transfer.frame import Header, Selection, Tally
from perdure_eventstore.transfer.record import JsonLines

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = UUID(int=5)

IMPORT = """
import asyncio, resource, sys
from perdure_eventstore.database import open_engine
from perdure_eventstore.transfer.importing import import_file
from perdure_engine.imported import ImportedWork

async def main():
    engine = open_engine(sys.argv[1])
    with open(sys.argv[2], "rb") as file:
        done = await import_file(engine, file, ImportedWork(), lambda events: print(events, flush=True))
    await engine.dispose()
    print(done.events, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

asyncio.run(main())
"""

EXPORT = """
import asyncio, resource, sys
from perdure_eventstore.database import open_engine
from perdure_eventstore.transfer.export import export
from perdure_eventstore.transfer.record import JsonLines

async def main():
    engine = open_engine(sys.argv[1])
    with open(sys.argv[2], "wb") as file:
        done = await export(engine, file.write, JsonLines(), log=sys.argv[3])
    await engine.dispose()
    print(done.events, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

asyncio.run(main())
"""


def write_export(file: Path, events: int) -> None:
    """An export of ``events`` in streams of 20, ten of them under way at a time."""
    form, tally = JsonLines(), Tally()
    heads = {number: NO_STREAM for number in range(10)}
    with file.open("wb") as out:

        def put(line: bytes) -> None:
            tally.take(line)
            out.write(line)

        put(form.header(Header(LOG, events, Selection(), BEGUN, "0.1.0")))
        for position in range(1, events + 1):
            place = position % 10
            round_, number = divmod((position - 1) // 10, 20)
            head = heads[place] if number else NO_STREAM
            entry = made(uuid5(NAMES, f"{place} {round_}"), head.version + 1, head.hash, position)
            heads[place] = entry.event.head
            put(form.entry(entry))
            tally.count(position, entry.event.version)
        out.write(form.trailer(tally.trailer()))


def made(stream: UUID, version: int, previous: bytes | None, position: int) -> Entry:
    payload, salt, at = b'{"output":1.10}', bytes(16), BEGUN + timedelta(milliseconds=position)
    id_, data, digest = uuid5(stream, str(version)), b'{"n":%d}' % position, payload_digest(salt, payload)
    hash_ = event_hash(
        previous, stream.bytes, version, id_.bytes, b"Happened", 1, microseconds(at), data, b"{}", digest
    )
    event = RecordedEvent(position, at, stream, version, 1, id_, "Happened", data, b"{}", payload, salt, digest, hash_)
    return Entry(event, previous)


def script(program: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, env=environment()
    )


@pytest.mark.every_postgres
async def test_an_import_killed_in_the_middle_leaves_nothing_and_is_run_again(
    database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "log.jsonl"
    write_export(file, 8_000)
    with script(IMPORT, database_url, str(file)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line.split()[0]) >= 3_000:
                break
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert rows(database_url, "select from perdure.events limit 1") == []
    async with opened(database_url) as engine, another_log(database_url) as other:
        text = file.read_bytes()
        assert (await import_lines(engine, text)).events == 8_000
        assert (await import_lines(engine, text)).skipped == 8_000
        again, said = await exported(engine)
        assert said.events == 8_000
        await import_lines(other, again)
        assert (
            sha256(repr(content(url_of(other))).encode()).digest()
            == sha256(repr(content(database_url)).encode()).digest()
        )


async def test_eight_times_the_events_take_no_more_memory(database_url: str) -> None:
    taken: dict[int, list[int]] = {}
    for events in (10_000, 80_000):
        async with another_log(database_url) as engine:
            with tempfile.TemporaryDirectory() as folder:
                file, out = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
                write_export(file, events)
                taken[events] = []
                for program, arguments in ((IMPORT, (str(file),)), (EXPORT, (str(out), LOG))):
                    with script(program, url_of(engine), *arguments) as process:
                        said, _ = process.communicate(timeout=300)
                    done, kilobytes = map(int, said.splitlines()[-1].split())
                    assert done == events
                    taken[events].append(kilobytes)
                assert out.read_bytes().splitlines()[1:-1] == file.read_bytes().splitlines()[1:-1]
    for small, large in zip(taken[10_000], taken[80_000], strict=True):
        assert large < small + 8_000, f"{small} kB for 10,000 events, {large} for 80,000"

"""A client stopped with SIGSTOP in the middle of its append holds nothing that another needs."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import anyio
import pytest
from acceptance.forks import ForkServer
from bad_days.crowd import read_log
from bad_days.notes import MARKER, lines, named_append, told_by
from bad_days.writer import append_one
from breaking_proxy import breaking_proxy
from logs import new_stream, opened, rows, running, until
from postgres_server import PostgresServer
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.events import NO_STREAM
from perdure_eventstore.feed import Feed

LOCKS = """select c.relname::text, l.mode from pg_locks l join pg_class c on c.oid = l.relation
    where l.pid <> pg_backend_pid() and c.relnamespace = 'perdure'::regnamespace"""
"""What the log's tables, indexes and sequences are locked by."""

SYNC = b"S\0\0\0\4"
"""The last message of every statement: now commit."""


@asynccontextmanager
async def following(engine: AsyncEngine) -> AsyncIterator[Feed]:
    """A feed at work."""
    feed = Feed(engine, interval=0.05)
    async with anyio.create_task_group() as group:
        group.start_soon(feed.run)
        yield feed
        group.cancel_scope.cancel()


@pytest.mark.parametrize("payload", [100, 5_000_000], ids=["small", "large"])
async def test_a_client_frozen_while_it_sends_holds_no_lock_of_the_log(
    server: PostgresServer, forks: ForkServer, tmp_path: Path, payload: int
) -> None:
    notes = tmp_path / "notes"
    async with breaking_proxy(server.url) as (through, proxy), opened(server.url) as engine, running(engine) as others:
        # Half of its message is with the server; the rest waits in the client, which is blocked, and then stopped.
        proxy.hold_next(MARKER, lambda piece: len(piece) // 2)
        frozen = forks.fork(append_one, url=through, notes=str(notes), payload=payload)
        with anyio.fail_after(20):
            await proxy.holding.wait()
        frozen.signal(signal.SIGSTOP)
        try:
            assert rows(server.url, LOCKS) == []
            async with following(engine) as feed:
                for _ in range(20):
                    with anyio.fail_after(5):
                        position = (await others.append(new_stream())).positions[0]
                        await feed.beyond(position - 1)
            assert [line[0] for line in lines(notes)] == ["sent"]
        finally:
            frozen.signal(signal.SIGCONT)
        proxy.release()
        with anyio.fail_after(20):
            while not frozen.has_ended():
                await anyio.sleep(0.01)
    (told,) = told_by(notes)
    log = [fact for fact in read_log(server.url) if fact.id in told.ids]
    assert [(fact.stream, fact.version, fact.position) for fact in log] == [(told.stream, 1, told.positions[0])]


async def test_a_client_frozen_before_its_last_five_bytes_has_committed_and_holds_nothing(
    server: PostgresServer,
) -> None:
    """The server has run its statement by then; of one that did not commit by itself it would keep all locks."""
    url, append = server.url, named_append(uuid4(), NO_STREAM, 2)
    async with breaking_proxy(url) as (through, proxy), opened(through) as engine, running(engine) as frozen:
        await frozen.append(new_stream())
        proxy.hold_next(MARKER, lambda piece: len(SYNC))
        task = asyncio.create_task(frozen.append(append))
        with anyio.fail_after(20):
            await proxy.holding.wait()
        await until(lambda: len([fact for fact in read_log(url) if fact.stream == str(append.stream)]) == 2)
        assert rows(url, LOCKS) == []
        async with opened(url) as other, running(other) as appender, following(other) as feed:
            position = (await appender.append(new_stream())).positions[0]
            with anyio.fail_after(5):
                await feed.beyond(position - 1)
        assert not task.done()
        proxy.release()
        answer = await task
    log = [fact for fact in read_log(url) if fact.stream == str(append.stream)]
    assert [(fact.version, fact.position) for fact in log] == list(enumerate(answer.positions, 1))

"""A restore from pg_dump into a younger server: transaction ids begin anew, and positions go on."""

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import UUID

import anyio
import psycopg
import pytest
from bad_days.crowd import broken_chains
from bad_days.servers import binaries
from logs import execute, more, new_stream, opened, reading, rows, running
from postgres_server import PostgresServer

from perdure.migrate import check_schema
from perdure_eventstore.events import Head, RecordedEvent
from perdure_eventstore.feed import Feed

LOG = "select position, stream, version, hash, payload from perdure.events order by position"
AGE = "select txid_current()"


class Old(NamedTuple):
    """What was known when the dump was made."""

    head: Head
    stream: UUID
    checkpoint: int
    log: list[Any]


async def fill(url: str) -> Old:
    """A log with holes, a reader's checkpoint in the middle of it, and many transactions gone by."""
    async with opened(url) as engine, running(engine) as appender:
        for _ in range(20):
            await appender.append(new_stream(2, payload=b'"small"'))
        checkpoint = (await appender.append(new_stream())).positions[0]
        execute(url, f"insert into perdure.subscriptions (name, position) values ('reader', {checkpoint})")
        execute(url, "begin", "select nextval('perdure.events_position_seq') from generate_series(1, 50)", "rollback")
        await appender.append(new_stream(2, payload=b'"' + b"x" * 20_000 + b'"'))
        last = new_stream()
        head = (await appender.append(last)).head
        # Drawn by somebody who was rolled back: whoever is told positions from now on is told higher ones.
        execute(url, "begin", "select nextval('perdure.events_position_seq') from generate_series(1, 7)", "rollback")
    execute(url, "do $$ begin for i in 1..500 loop perform txid_current(); commit; end loop; end $$")
    return Old(head, last.stream, checkpoint, rows(url, LOG))


@pytest.fixture
def younger() -> Iterator[PostgresServer]:
    """Of the newest Postgres, and empty."""
    server = PostgresServer(binaries("newest"))
    yield server
    server.remove()


async def read_on(url: str, after: int, last: int) -> list[RecordedEvent]:
    """What a reader gets that follows by the settled mark from ``after`` on, up to ``last``."""
    async with opened(url) as engine, reading(engine) as reader, anyio.create_task_group() as group:
        feed, seen = Feed(engine, interval=0.05), list[RecordedEvent]()
        group.start_soon(feed.run)
        with anyio.fail_after(20):
            while after < last:
                seen += await reader.span(after, await feed.beyond(after), limit=10)
                after = seen[-1].position
        group.cancel_scope.cancel()
    return seen


def restore(old: PostgresServer, younger: PostgresServer) -> None:
    # The programs of the newest version read servers of any older one.
    dump = str(younger.folder / "dump.sql")
    younger.start()
    younger.run("pg_dump", "-d", old.url, "-f", dump)
    younger.run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", younger.url, "-f", dump)


async def test_a_log_restored_into_a_younger_server_goes_on_where_it_was(
    server: PostgresServer, younger: PostgresServer
) -> None:
    old = await fill(server.url)
    await asyncio.to_thread(restore, server, younger)
    assert rows(younger.url, AGE) < rows(server.url, AGE)
    await check_restored(younger.url, old)


async def check_restored(url: str, old: Old) -> None:
    assert rows(url, LOG) == old.log
    assert await broken_chains(url) == []
    async with opened(url) as engine:
        await check_schema(engine)
        async with running(engine) as appender:
            answer = await appender.append(more(old.stream, old.head))
            new = await appender.append(new_stream())
    # Not even what was drawn in vain is drawn again.
    assert old.log[-1][0] + 7 < answer.positions[0] < new.positions[0]
    ((checkpoint,),) = rows(url, "select position from perdure.subscriptions where name = 'reader'")
    assert checkpoint == old.checkpoint
    seen = [event.position for event in await read_on(url, checkpoint, new.positions[0])]
    assert seen == [position for position, *_ in rows(url, LOG) if position > checkpoint]
    for statement in ("update perdure.events set version = 9", "delete from perdure.events", "truncate perdure.events"):
        with pytest.raises(psycopg.ProgrammingError, match="the log is append-only") as refused:
            execute(url, "set session_replication_role = replica", statement)
        assert refused.value.sqlstate == "PD001"

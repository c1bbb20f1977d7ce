"""The connection cut in COMMIT, while a synchronous standby is late: the append has happened, and nobody can see it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest
from bad_days.pair import Pair, synchronous_pair
from bad_days.servers import Servers, Version
from breaking_proxy import breaking_proxy
from logs import more, new_stream, opened, read_stream, rows, running

from perdure_eventstore.append import Append, Appended
from perdure_eventstore.errors import Conflict, LogError
from perdure_eventstore.events import NO_STREAM
from perdure_eventstore.session import Session
from perdure_eventstore.settled import SettledMark

WAITS = "from pg_stat_activity where application_name = 'perdure' and wait_event"
IN_COMMIT, FOR_ANOTHER = f"select {WAITS} = 'SyncRep'", f"select {WAITS} = 'transactionid'"


@pytest.fixture
def pair(servers: Servers, version: Version) -> Iterator[Pair]:
    with synchronous_pair(servers, version) as pair:
        yield pair


async def waiting(url: str, statement: str, count: int) -> None:
    """Until the statement finds so many."""
    with anyio.fail_after(20):
        while len(await asyncio.to_thread(rows, url, statement)) < count:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def cut_in_commit(pair: Pair, append: Append) -> AsyncIterator["asyncio.Task[Appended]"]:
    """Begin to append, and cut the connection when the log has it and COMMIT waits for the standby."""
    async with (
        breaking_proxy(pair.primary.url) as (url, proxy),
        opened(url) as engine,
        running(engine, patience=30) as appender,
    ):
        await appender.append(new_stream())
        pair.delay()
        try:
            task = asyncio.create_task(appender.append(append))
            await waiting(pair.primary.url, IN_COMMIT, 1)
            await proxy.cut()
            # It sends the same again, which has to wait for its own first try.
            await waiting(pair.primary.url, FOR_ANOTHER, 1)
            yield task
        finally:
            pair.arrive()


async def test_an_append_cut_off_in_a_commit_that_waits_is_known_again_and_there_once(pair: Pair) -> None:
    append = new_stream(3)
    async with cut_in_commit(pair, append) as task:
        async with opened(pair.primary.url) as engine:
            assert await read_stream(engine, append.stream) == []
        pair.arrive()
        answer = await task
    for server in (pair.primary, pair.standby):
        async with opened(server.url) as engine:
            recorded = await read_stream(engine, append.stream)
        assert [event.version for event in recorded] == [1, 2, 3]
        assert [event.position for event in recorded] == list(answer.positions)
        assert recorded[-1].head == answer.head


async def test_of_two_who_want_one_place_while_the_standby_is_late_the_first_wins(pair: Pair) -> None:
    append = new_stream(2)
    rival = Append(append.stream, NO_STREAM, new_stream().events)
    async with cut_in_commit(pair, append) as task, opened(pair.primary.url) as engine, running(engine) as appender:
        rivalling = asyncio.create_task(appender.append(rival))
        await waiting(pair.primary.url, FOR_ANOTHER, 2)
        pair.arrive()
        with pytest.raises(Conflict):
            await rivalling
        answer = await task
        assert (await appender.append(more(append.stream, answer.head))).head.version == 3


async def test_a_real_standby_is_refused_to_readers(pair: Pair) -> None:
    async with opened(pair.standby.url) as engine:
        session = Session(engine)
        with pytest.raises(LogError, match="this server is a standby in recovery: the log is read from the primary"):
            await SettledMark(session).check()
        await session.close()

"""Consumers of one subscription die, and the server too: each event still counts once, in the order of its stream."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random, randrange

import anyio
import consuming
import pytest
from acceptance.forks import Child, ForkServer, fork_server
from bad_days.test_kill_postgres import Server
from consuming import faults, ledger, make_ledger, recorded
from logs import opened, rows, running

from perdure.migrate import migrate

WRITERS, EVENTS = 8, 250
PROCESSES = (2, 1, 1)
"""How many consumers each has."""

every_postgres = pytest.mark.every_postgres


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("forks"), "consuming") as server:
        yield server


class Crowd:
    """Processes that consume one subscription, killed and begun anew at random."""

    def __init__(self, forks: ForkServer, url: str, random: Random) -> None:
        self._forks, self._url, self._random = forks, url, random
        self.children = [self._begin(consumers) for consumers in PROCESSES]
        self.killed = 0

    def _begin(self, consumers: int) -> Child:
        work = {"url": self._url, "name": "ledger", "parts": 8, "consumers": consumers, "batch": 5}
        return self._forks.fork(consuming.consume_for_ever, **work)

    async def suffer(self, least: int, until: asyncio.Future[list[None]]) -> None:
        """Kill one after the other with -9, at least so many."""
        while self.killed < least or not until.done():
            await asyncio.sleep(self._random.uniform(0.1, 0.4))
            place = self._random.randrange(len(PROCESSES))
            await asyncio.to_thread(self.children[place].kill)
            self.children[place] = self._begin(PROCESSES[place])
            self.killed += 1

    def end(self) -> None:
        for child in self.children:
            child.kill()


async def consumed(url: str, count: int) -> list[consuming.Entry]:
    """What is in the ledger once it is so much, and a little later: what is doubled shows."""
    with anyio.fail_after(90):
        while rows(url, "select count(*) >= %s from public.ledger", (count,)) != [(True,)]:
            await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)
    return ledger(url)


@every_postgres
async def test_consumers_killed_at_random_consume_each_event_once_in_the_order_of_its_stream(
    forks: ForkServer, database_url: str
) -> None:
    seed = randrange(2**32)
    print(f"seed {seed}")
    make_ledger(database_url)
    crowd = Crowd(forks, database_url, Random(seed))
    try:
        async with opened(database_url) as engine, running(engine) as appender:
            writing = asyncio.gather(*(consuming.write(appender, Random(seed + n), EVENTS) for n in range(WRITERS)))
            await crowd.suffer(15, writing)
            await writing
            found = await consumed(database_url, WRITERS * EVENTS)
    finally:
        crowd.end()
    pids = rows(database_url, "select count(distinct pid) from public.ledger")[0][0]
    print(f"{crowd.killed} killed, {pids} processes took part")
    assert pids > len(PROCESSES)
    assert faults(found, recorded(database_url)) == []


async def test_the_server_killed_and_started_again_in_the_middle(forks: ForkServer, tmp_path: Path) -> None:
    seed = randrange(2**32)
    print(f"seed {seed}")
    random, server = Random(seed), Server(tmp_path)
    try:
        async with opened(server.url) as engine:
            await migrate(engine)
        make_ledger(server.url)
        crowd = Crowd(forks, server.url, random)
        try:
            async with opened(server.url) as engine, running(engine, patience=60.0) as appender:
                writing = asyncio.gather(*(consuming.write(appender, Random(seed + n), EVENTS) for n in range(WRITERS)))
                for _ in range(2):
                    await asyncio.sleep(random.uniform(0.3, 1.0))
                    await asyncio.to_thread(server.kill)
                    await asyncio.sleep(random.uniform(0.0, 1.0))
                    await asyncio.to_thread(server.start)
                await writing
                found = await consumed(server.url, WRITERS * EVENTS)
            # None of the processes ended by what happened to the server.
            assert not any(child.has_ended() for child in crowd.children)
        finally:
            crowd.end()
        assert faults(found, recorded(server.url)) == []
    finally:
        server.stop()

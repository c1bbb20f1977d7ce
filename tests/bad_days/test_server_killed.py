"""The server, or one process of it, dies of kill -9 under load: what was acknowledged is there, and nothing twice."""

import asyncio
import random
from pathlib import Path

from acceptance.forks import ForkServer
from bad_days.crowd import Crowd
from logs import rows
from postgres_server import PostgresServer

EVENTS = 200


async def test_every_acknowledged_event_outlives_the_server_and_none_is_there_twice(
    server: PostgresServer, forks: ForkServer, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    assert rows(server.url, "show fsync") == [("on",)]
    crowd = Crowd(forks, tmp_path, server.url, seed)
    crowd.start_reader()
    for _ in range(4):
        crowd.start_writer(careless=False, pause=0.002)
    await crowd.until_read(EVENTS)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    await crowd.until_read(EVENTS)
    # One process killed by the system takes all sessions with it; the server comes back by itself.
    await asyncio.to_thread(server.kill_a_backend)
    await crowd.until_read(EVENTS)
    verdict = await crowd.end()
    assert verdict.findings == []
    # An outage shorter than the writers' patience costs them time, and no certainty.
    assert "appends unknown" not in verdict.counts

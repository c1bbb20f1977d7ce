"""A subscriber beside 8 writers that roll back, dawdle, use savepoints and prepare, and a server that restarts."""

import asyncio
import random
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from acceptance.forks import ForkServer
from bad_days.crowd import Crowd, settle_prepared
from postgres_server import PostgresServer

WRITERS = 8
EVENTS = 100


def unrelated(url: str) -> psycopg.Connection[Any]:
    """A transaction that has written, has nothing to do with the log, and stays open."""
    connection = psycopg.connect(url)
    connection.execute("create table if not exists public.unrelated (n int)")
    connection.commit()
    connection.execute("insert into public.unrelated values (1)")
    return connection


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_a_subscriber_misses_nothing_though_the_server_restarts_under_it(
    server: PostgresServer, forks: ForkServer, tmp_path: Path, how: str
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    crowd = Crowd(forks, tmp_path, server.url, seed)
    # Nothing that is read now was settled by this transaction's end, nor is it after the restart.
    with closing(unrelated(server.url)):
        crowd.start_reader()
        for _ in range(WRITERS):
            crowd.start_writer(pause=0.005)
        await crowd.until_read(EVENTS)
        await asyncio.to_thread(server.stop, how)
    await asyncio.to_thread(server.start)
    # What a writer had prepared as the server went outlives it, and holds up readers until somebody ends it.
    settle_prepared(server.url, crowd.random)
    with closing(unrelated(server.url)):
        await crowd.until_read(EVENTS)
        verdict = await crowd.end()
    assert verdict.findings == []
    assert verdict.counts["appends refused"] > 0

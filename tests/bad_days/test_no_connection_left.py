"""A server that has no connection left: who publishes waits, and is told so when that lasts too long."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import psycopg
import pytest
from applications import new_app
from bad_days.servers import Servers, Version
from logs import rows
from postgres_server import PostgresServer

from perdure_eventstore.errors import LogUnavailable


@pytest.fixture
def small_server(servers: Servers, version: Version) -> Iterator[PostgresServer]:
    with servers.running(version, max_connections="12", superuser_reserved_connections="0") as server:
        yield server


async def test_publish_waits_for_a_connection_and_says_that_there_is_none(small_server: PostgresServer) -> None:
    url = small_server.url
    async with new_app(url, patience=0.5) as hasty, new_app(url, patience=30.0) as patient:
        with ExitStack() as stack:
            with suppress(psycopg.OperationalError):
                for _ in range(20):
                    stack.enter_context(psycopg.connect(url))
            with pytest.raises(
                LogUnavailable, match=r"^the database cannot be reached: (.|\n)*too many clients already"
            ):
                await hasty.publish("began")
            waiting = asyncio.create_task(patient.publish("began"))
            await asyncio.sleep(1)
            assert not waiting.done()
        assert (await waiting).position is not None
    assert rows(url, "select count(*) from perdure.events") == [(1,)]

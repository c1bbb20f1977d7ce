"""What Postgres says becomes one of the log's own errors."""

import asyncio

import pytest
from logs import new_stream, opened

from perdure_eventstore.append import Batch, Statement, send
from perdure_eventstore.clock import Clock
from perdure_eventstore.database import raw_connection
from perdure_eventstore.errors import LogUnavailable

pytestmark = pytest.mark.every_postgres


async def test_a_connection_that_the_server_ends_is_no_refusal_of_the_events(database_url: str) -> None:
    """As an administrator's time-outs do, whose code is that of a wrong statement."""
    async with opened(database_url) as engine, raw_connection(engine) as connection:
        await connection.execute("set idle_in_transaction_session_timeout = '10ms'")
        await connection.execute("begin")
        await asyncio.sleep(0.5)
        with pytest.raises(LogUnavailable, match="terminating connection due to idle-in-transaction timeout"):
            await send(connection, Statement(), Batch([new_stream()]), Clock())

"""A session: one connection, given up without harm to whoever else uses it."""

import asyncio

import pytest
from logs import opened, rows

from perdure_eventstore.errors import LogUnavailable
from perdure_eventstore.session import Session

pytestmark = pytest.mark.every_postgres


async def test_closing_waits_for_the_statement_of_another_task_and_the_next_use_opens_anew(database_url: str) -> None:
    async with opened(database_url) as engine:
        session = Session(engine)
        under_way = asyncio.create_task(session.fetch("select 1 from pg_sleep(0.5)"))
        behind = asyncio.create_task(session.fetch("select 2 from pg_sleep(0.1)"))
        await asyncio.sleep(0.2)
        await session.close()
        assert await under_way == [(1,)]
        try:
            assert await behind == [(2,)]
        except LogUnavailable as error:
            assert "closed" in str(error)
        assert await session.fetch("select 3") == [(3,)]
        assert session.opened == 2
        await session.close()
        await session.close()
        others = "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        assert rows(database_url, others) == []

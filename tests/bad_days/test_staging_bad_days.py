"""The caller's own transaction on bad days: open for long, killed before or after COMMIT, beside others who compete."""

import asyncio
import multiprocessing
import os
import signal
from random import randrange
from uuid import UUID, uuid4

import psycopg
import pytest
from applications import new_app, task, workflow
from breaking_proxy import Where, breaking_proxy
from logs import execute, rows
from open_transaction import beside_an_open_transaction, faults

pytestmark = pytest.mark.every_postgres

SECONDS = 1.5


async def test_an_open_transaction_holds_up_neither_who_appends_nor_who_reads(database_url: str) -> None:
    seed = randrange(2**32)
    print(f"seed {seed}")
    seen = await beside_an_open_transaction(database_url, SECONDS, seed)
    print(f"{seen.before:.0f} appends/s before, {seen.during:.0f} beside it, longest lag {seen.lag:.3f} s")
    assert list(faults(database_url, seen, SECONDS)) == []
    assert seen.locks and seen.acknowledged


def publish_and_die(url: str, event: UUID, committed: bool) -> None:
    with new_app(url).blocking() as client, psycopg.connect(url) as connection:
        connection.execute("insert into public.orders values (1)")
        client.publish("came", {"n": 1}, event_id=event, connection=connection)
        if committed:
            connection.commit()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("committed", [False, True], ids=["before", "after"])
def test_a_process_killed_before_its_commit_has_published_nothing(database_url: str, committed: bool) -> None:
    execute(database_url, "create table public.orders (id integer primary key)")
    child = multiprocessing.get_context("spawn").Process(
        target=publish_and_die, args=(database_url, uuid4(), committed)
    )  # fmt: skip
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    both = "select (select count(*) from public.orders), (select count(*) from perdure.events)"
    assert rows(database_url, both) == [(committed, committed)]


@pytest.mark.parametrize("where", ["before the statement", "before the answer"])
async def test_a_commit_whose_answer_was_lost_can_be_repeated(database_url: str, where: Where) -> None:
    execute(database_url, "create table public.orders (id uuid primary key)")
    app, event, run = new_app(database_url), uuid4(), uuid4()
    async with app, breaking_proxy(database_url) as (url, proxy):
        await app.register(workflow("one", task("a")), allow_unknown_types=True)
        for attempt in range(2):
            connection = await psycopg.AsyncConnection.connect(url)
            try:
                await connection.execute("insert into public.orders values (%s) on conflict do nothing", (event,))
                await app.publish("came", {"n": 1}, event_id=event, connection=connection)
                await app.start("one", {"n": 1}, run_id=run, connection=connection)
                if attempt == 0:
                    proxy.break_next(b"COMMIT", where)
                    with pytest.raises(psycopg.OperationalError):
                        await connection.commit()
                    assert proxy.broken == 1
                    expected = 1 if where == "before the answer" else 0
                    async with asyncio.timeout(5):
                        while rows(database_url, "select count(*) from public.orders") != [(expected,)]:
                            await asyncio.sleep(0.01)
                else:
                    await connection.commit()
            finally:
                await connection.close()
    found = rows(database_url, "select type, count(*) from perdure.events group by 1 order by 1")
    assert found == [("DefinitionRegistered", 1), ("EventPublished", 1), ("RunStarted", 1), ("TaskScheduled", 1)]

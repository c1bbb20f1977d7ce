"""Somebody's transaction has written to another table and stays open: what is dead in the queues cannot be vacuumed.

Nobody walks over it again and again all the same: what a node asks every day touches a few pages.
"""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from applications import new_app, tenure_of, until
from logs import execute, rows
from plans import MODES, touched

from perdure_engine import bound
from perdure_engine import timers as timers_module
from perdure_engine.identity import shard_of
from perdure_engine.tenure import Tenure

pytestmark = pytest.mark.every_postgres

DEAD = 100_000
SHARDS = list(range(64))
A_SHARD = 4 * len(SHARDS)
"""Pages, of a statement that looks at each shard by itself; and from Postgres 18 on the planner may do so unasked."""

# Each with 100,000 rows, which are gone before anybody has seen them.
INBOX = "insert into perdure.inbox (run, shard, kind) select gen_random_uuid(), n % 64, 'x'"
RETRIES = """insert into perdure.timers (run, timer, shard, due)
    select gen_random_uuid(), 'retry:a', n % 64, clock_timestamp() - interval '2 min' - n * interval '0.1 s'"""
DEADLINES = """insert into perdure.timers (run, timer, shard, due)
    select gen_random_uuid(), 'deadline', n % 64, clock_timestamp() + interval '2 min' + n * interval '0.1 s'"""
OPEN_RUNS = """insert into perdure.open_runs (run, shard, workflow_id, key, started_at)
    select gen_random_uuid(), n % 64, 'w', n::text, n"""
WAITS = """insert into perdure.waits (run, trigger, event, key, armed_at)
    select gen_random_uuid(), 0, 'event' || n % 1000, null, n"""
PERMITS = "insert into perdure.permits (key, run, task_id) select 'key', gen_random_uuid(), 'a'"
ASSIGNMENTS = """insert into perdure.assignments (run, task_id, attempt, shard, node, token, digest, failures)
    select gen_random_uuid(), 'a', 1, n % 64, '{node}', 1, 'unknown', 0"""
BEGIN_MANY = """do $$ begin
    for n in 1 .. 10000 loop
        perform perdure.take_rate('work', 1000000, 0.05, 1);
        commit;
    end loop;
end $$"""
CHURN = (INBOX, RETRIES, DEADLINES, OPEN_RUNS, WAITS, PERMITS, ASSIGNMENTS)
PARKED = """insert into perdure.open_runs (run, shard, workflow_id, started_at, parked)
    select gen_random_uuid(), n % 64, 'w', n, true from generate_series(1, 500) n"""

RUN = str(UUID(int=7))
WORK = {
    "closed": [{"a": 1, "run": RUN}],
    "parked": [{"a": 1, "run": RUN, "parked": True}],
    "paused": [{"a": 1, "run": RUN, "paused": True}],
    "cleared": [{"a": 1, "run": RUN, "timer": "retry:a"}],
    "disarmed": [{"a": 1, "run": RUN, "trigger": 0}],
    "consumed": [{"a": 1, "id": 1}],
}
"""What may be written beside an append, of rows there are."""
WRITE = "select perdure.write_work(%s::json, '{}', '{1}', '{1}')"


@pytest.fixture
def old_writer(database_url: str) -> Iterator[None]:
    """The transaction."""
    execute(database_url, "create table public.unrelated (entry integer)")
    with psycopg.connect(database_url) as connection:
        connection.execute("insert into public.unrelated values (1)")
        yield
        connection.rollback()


def churn(url: str, node: UUID) -> None:
    execute(url, PARKED)
    for fill in CHURN:
        table = fill.split()[2]
        gone = f"delete from {table} where not exists (select from perdure.open_runs o where o.run = {table}.run)"
        if fill is OPEN_RUNS:
            gone = "delete from perdure.open_runs where not parked"
        execute(url, "begin", f"{fill.format(node=node)} from generate_series(1, {DEAD}) n", gone, "commit")
    execute(url, BEGIN_MANY, "analyze")


async def read(url: str, tenure: Tenure, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node reads a row of each queue that is newer than what is dead, and ten seconds pass."""
    run, node, granted = uuid4(), tenure.node_id, asyncio.Event()
    tenure.permits.ask("key", 2, run, "a", granted.set, lambda: True)
    await asyncio.wait_for(granted.wait(), 5)
    execute(
        url,
        f"insert into perdure.inbox (run, shard, kind) values ('{run}', {shard_of(run)}, 'cancel')",
        f"{ASSIGNMENTS.format(node=node)} from generate_series(1, 1) n",
    )
    await until(lambda: rows(url, "select from perdure.inbox where kind = 'cancel'") == [])
    await until(lambda: rows(url, "select from perdure.assignments") == [])
    assert await tenure.timers.due(SHARDS, datetime.now(UTC)) == []
    monkeypatch.setattr(bound, "monotonic", lambda: time.monotonic() + 10)


def everyday(tenure: Tenure) -> dict[str, tuple[int, str, tuple[Any, ...]]]:
    """What a node asks: by a name, the pages that are enough for it, the statement and its parameters."""
    now, runs = datetime.now(UTC), [uuid4() for _ in range(20)]
    inbox, assignments, timers, router = tenure.reaching._inbox, tenure.assignments, tenure.timers, tenure.router
    letters, assigned, fence = inbox.asked(SHARDS), assignments.asked(), (tenure.node_id, tenure.leases.epoch)
    dispatch = tenure.reaching._dispatch
    permits = (*fence, ["key"], [2], runs[:1], ["a"], [tenure.permits._bounds["key"].above()])
    return {
        "is there anything": (30, tenure.reaching._anything, (*letters, *assigned)),
        "inbox": (30, inbox._select, letters),
        "assignments": (30, assignments._select, (*assigned, [], [], tenure.node_id)),
        "assignments under way": (150, assignments._select, (*assigned, runs, ["a"] * 20, tenure.node_id)),
        "timers due": (A_SHARD, timers._due, (SHARDS, timers._bound.above(), now)),
        "next timer": (A_SHARD, timers._earliest, (SHARDS, now, now + timers_module._SOON)),
        "permits": (30, tenure.permits._take, permits),
        "rate": (40, tenure.rates._take, ("work", 1000, 0.05, 1)),
        "waits": (150, router._waiting, (["event7"],)),
        "run of a key": (30, router._keyed_runs, (["7"], "w", runs[0])),
        **{f"append: {name}": (A_SHARD, WRITE, (orjson.dumps({name: rows}).decode(),)) for name, rows in WORK.items()},
        "what came of an attempt": (A_SHARD, assignments._tell, (*fence, [runs[0]], ["a"], [1], ["{}"], [None])),
        "assignments taken back": (A_SHARD, dispatch._revoke, ([runs[0]], ["a"], [1], *fence)),
        "attempts of a run cancelled": (A_SHARD, dispatch._cancel, (runs[0],)),
        "inbox rows of no use": (A_SHARD, inbox._delete, ([1], *fence)),
        "a timer of no use": (A_SHARD, timers._delete, (runs[0], "retry:a", now, *fence)),
        "runs parked": (A_SHARD, tenure.reaching._park, ([runs[0]], tenure.node_id)),
        "an open run": (30, router._open_run, (runs[0],)),
    }


async def test_beside_an_old_writer_what_a_node_asks_every_day_touches_few_pages(
    database_url: str, old_writer: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_app(database_url).node(views=False) as app:
        tenure = tenure_of(app)
        churn(database_url, tenure.node_id)
        await read(database_url, tenure, monkeypatch)
        with psycopg.connect(database_url, autocommit=True) as connection:
            for mode in MODES:
                asked = everyday(tenure)
                found = {name: touched(connection, mode, each[1], *each[2]) for name, each in asked.items()}
                assert {name: pages for name, pages in found.items() if pages > asked[name][0]} == {}, (mode, found)
            # Without their bound they do walk over what is dead, or this would show nothing.
            queues = (tenure.reaching._inbox, tenure.assignments, tenure.timers)
            for each in (*(queue._bound for queue in queues), tenure.permits._bounds["key"]):
                each.lift()
            asked = everyday(tenure)
            for name in ("is there anything", "inbox", "assignments", "timers due", "permits"):
                assert touched(connection, MODES[0], *asked[name][1:2], *asked[name][2]) > asked[name][0]

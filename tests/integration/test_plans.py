"""Hot queries use their indexes, however long the log and however many runs are open.

Each statement is taken from the code that sends it, and planned as a prepared one is: with its parameters known, and,
as Postgres may choose to after five times, without.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from inspect import getsource
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from plans import MODES, filled, plan
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_engine import reaching
from perdure_engine.inbox import Inbox
from perdure_engine.timers import Timers
from perdure_eventstore.database import open_engine
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

ROWS = 100_000
RUN = UUID(int=1)
SCHEMA = "perdure"
FEW, MANY = [3], list(range(16))

FILL = f"""
    insert into perdure.events (recorded_at, stream, version, schema_version, id, type, data, metadata, hash)
        select now(), lpad(to_hex(n / 10), 32, '0')::uuid, n % 10 + 1, 1, gen_random_uuid(), 'Happened',
            '{{}}', '{{}}', ''
        from generate_series(0, {ROWS} - 1) n;
    insert into perdure.payloads (stream, version, payload)
        select lpad(to_hex(n), 32, '0')::uuid, 1, 'x' from generate_series(1, {ROWS}) n;
    insert into perdure.inbox (run, shard, kind)
        select gen_random_uuid(), n % 64, 'event' from generate_series(1, {ROWS}) n;
    insert into perdure.timers (run, timer, shard, due)
        select gen_random_uuid(), 'retry:a', n % 64, now() + n * interval '1 s' from generate_series(-100, {ROWS}) n;
    insert into perdure.open_runs (run, shard, workflow_id, started_at)
        select gen_random_uuid(), n % 64, 'w', n from generate_series(1, {ROWS}) n;
    insert into perdure.waits (run, trigger, event, key, armed_at)
        select gen_random_uuid(), 0, 'event' || n % 1000, n::text, n from generate_series(1, {ROWS}) n;
    vacuum analyze perdure.events, perdure.inbox, perdure.timers, perdure.open_runs, perdure.waits, perdure.payloads"""


@pytest.fixture(scope="module")
def connection(template: str) -> Iterator[psycopg.Connection[Any]]:
    """One database for all of them: nothing is changed here."""
    with filled(template, FILL.split(";")) as connection:
        yield connection


@pytest.fixture
def engine(connection: psycopg.Connection[Any]) -> Iterator[AsyncEngine]:
    """Never connects: only statements are taken from what is built with it."""
    yield open_engine("postgresql://nobody@/nothing")


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_guard_sees_a_scan_of_the_whole_table(connection: psycopg.Connection[Any], mode: str) -> None:
    assert "Seq Scan on events" in plan(connection, mode, "select * from perdure.events where type = %s", "Rare")


def test_the_head_of_a_stream_is_one_probe_of_the_unique_index(
    connection: psycopg.Connection[Any], engine: AsyncEngine, mode: str
) -> None:
    found = plan(connection, mode, Reader(Session(engine))._head, RUN)
    assert "Index Scan Backward using events_stream_version" in found
    assert "Sort" not in found


def test_append_batch_probes_each_head_by_the_unique_index(connection: psycopg.Connection[Any], mode: str) -> None:
    probe = """select a.number from unnest(%s::uuid[], %s::integer[]) with ordinality a(stream, version, number)
        left join lateral (select e.version, e.hash from perdure.events e where e.stream = a.stream
            order by e.version desc limit 1) head on true where coalesce(head.version, 0) <> a.version"""
    source = connection.execute("select prosrc from pg_proc where proname = 'append_batch'").fetchone()
    assert source is not None and "order by e.version desc limit 1" in source[0]
    found = plan(connection, mode, probe, [RUN] * 50, [1] * 50)
    assert "Nested Loop Left Join" in found
    assert "using events_stream_version on events" in found
    assert "Seq Scan" not in found


def test_a_stream_is_read_by_the_unique_index(
    connection: psycopg.Connection[Any], engine: AsyncEngine, mode: str
) -> None:
    found = plan(connection, mode, Reader(Session(engine))._stream, RUN, 0, 1000)
    assert "using events_stream_version" in found
    assert "Seq Scan on events" not in found


def test_large_payloads_are_fetched_by_their_key(
    connection: psycopg.Connection[Any], engine: AsyncEngine, mode: str
) -> None:
    found = plan(connection, mode, Reader(Session(engine))._large, [RUN] * 20, [1] * 20)
    assert "using payloads_pkey on payloads" in found
    assert "Seq Scan" not in found


@pytest.mark.parametrize("statement", ["_span", "_types"])
def test_a_span_of_the_log_is_read_by_the_primary_key(
    connection: psycopg.Connection[Any], engine: AsyncEngine, mode: str, statement: str
) -> None:
    types = [["Happened", "Other"]] if statement == "_types" else []
    found = plan(connection, mode, getattr(Reader(Session(engine)), statement), 50_000, 51_000, *types, 1000)
    assert "Index Scan using events_pkey" in found
    assert "Sort" not in found
    assert "Seq Scan on events" not in found


def test_the_highest_position_is_one_probe(connection: psycopg.Connection[Any], mode: str) -> None:
    found = plan(connection, mode, "select coalesce((select max(position) from perdure.events), 0)")
    assert "Index Only Scan Backward using events_pkey" in found


@pytest.mark.parametrize("shards", [FEW, MANY], ids=["few", "many"])
def test_the_inbox_is_read_by_an_index(
    connection: psycopg.Connection[Any], engine: AsyncEngine, mode: str, shards: list[int]
) -> None:
    found = plan(connection, mode, Inbox(Session(engine), (uuid4(), 1), SCHEMA)._select, shards, 0, [5, 6])
    assert "Seq Scan" not in found


@pytest.mark.parametrize("shards", [FEW, MANY], ids=["few", "many"])
def test_timers_are_found_by_an_index(
    connection: psycopg.Connection[Any], engine: AsyncEngine, mode: str, shards: list[int]
) -> None:
    timers = Timers(Session(engine), SCHEMA, (uuid4(), 1), now=lambda: datetime.now(UTC), wake=lambda: None)
    now = datetime.now(UTC)
    assert "Seq Scan" not in plan(connection, mode, timers._due, shards, now, now)
    assert "Seq Scan" not in plan(connection, mode, timers._earliest, shards, now, now)
    assert "Index Scan using timers_pkey" in plan(connection, mode, timers._delete, RUN, "retry:a", now, *timers._fence)


async def test_the_open_runs_of_a_shard_are_found_by_its_index(
    connection: psycopg.Connection[Any], engine: AsyncEngine, mode: str
) -> None:
    assert """'select run from "{schema}".open_runs where shard = any(%s) and not parked'""" in getsource(reaching)
    found = plan(connection, mode, "select run from perdure.open_runs where shard = any(%s) and not parked", FEW)
    assert "using open_runs_active" in found or "on open_runs_active" in found

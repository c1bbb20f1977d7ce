"""What a node asks about schedules every minute uses their indexes, however many there are."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from plans import MODES, filled, plan

from perdure_engine.schedules.rows import ScheduleRows
from perdure_eventstore.database import open_engine
from perdure_eventstore.session import Session

FILL = """
    insert into perdure.schedules (schedule, shard, name, workflow_id, cron, timezone, overlap, catch_up, set_by,
                                   paused, next_due, last_run, has_more)
        select gen_random_uuid(), n % 64, 's' || n, 'w', '@daily', 'UTC', 'skip', 'last', 1, n % 10 = 0,
            now() + (n - 100) * interval '1 min', gen_random_uuid(), n % 1000 = 1
        from generate_series(1, 50000) n;
    insert into perdure.events (recorded_at, stream, version, schema_version, id, type, data, metadata, hash)
        select now(), schedule, 1, 1, gen_random_uuid(), 'ScheduleSet', '{}', '{}', '' from perdure.schedules;
    insert into perdure.open_runs (run, shard, workflow_id, started_at)
        select gen_random_uuid(), n % 64, 'w', n from generate_series(1, 50000) n;
    vacuum analyze perdure.events, perdure.schedules, perdure.open_runs"""


@pytest.fixture(scope="module")
def connection(template: str) -> Iterator[psycopg.Connection[Any]]:
    with filled(template, FILL.split(";")) as connection:
        yield connection


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shards", [[3], list(range(64))], ids=["one", "all"])
def test_what_is_due_and_when_is_found_by_an_index(
    connection: psycopg.Connection[Any], mode: str, shards: list[int]
) -> None:
    asked, now = ScheduleRows(Session(open_engine("postgresql://nobody@/nothing")), "perdure"), datetime.now(UTC)
    for statement, parameters in (
        (asked._due, (shards, now, shards, now)),
        (asked._next, (shards, now)),
        (f"{asked._read} where s.schedule = %s", (_one(connection),)),
    ):
        found = plan(connection, mode, statement, *parameters)
        assert "Seq Scan" not in found, found


def _one(connection: psycopg.Connection[Any]) -> Any:
    row = connection.execute("select schedule from perdure.schedules limit 1").fetchone()
    assert row is not None
    return row[0]

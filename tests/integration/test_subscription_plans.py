"""What subscriptions ask is answered by indexes, however long the log.

Each statement is taken from the code that sends it, and planned with its parameters known and without.
"""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from plans import MODES, filled, plan

from perdure_eventstore.checkpoints import Checkpoints
from perdure_eventstore.database import open_engine
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

ROWS = 100_000
TYPES = ["Happened", "Other"]

FILL = (
    f"""insert into perdure.events (recorded_at, stream, version, schema_version, id, type, data, metadata, hash)
        select now(), gen_random_uuid(), 1, 1, gen_random_uuid(),
            case when n % 1000 = 0 then 'Rare' else 'Happened' end,
            '{{}}', '{{}}', ''
        from generate_series(1, {ROWS}) n""",
    """insert into perdure.subscriptions (name, part, parts, position)
        select 'subscription ' || n, part, 64, n from generate_series(1, 200) n, generate_series(0, 63) part""",
    "vacuum analyze perdure.events, perdure.payloads, perdure.subscriptions",
)


@pytest.fixture(scope="module")
def connection(template: str) -> Iterator[psycopg.Connection[Any]]:
    """One database for all of them: nothing is changed here."""
    with filled(template, FILL) as connection:
        yield connection


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_guard_sees_a_scan_of_the_whole_table(connection: psycopg.Connection[Any], mode: str) -> None:
    by_part = "select * from perdure.events e where mod(get_byte(uuid_send(e.stream), 15), %s) = %s"
    assert "Seq Scan on events" in plan(connection, mode, by_part, 8, 3)


@pytest.mark.parametrize("types", [None, TYPES], ids=["all types", "some types"])
@pytest.mark.parametrize("end", [51_000, ROWS], ids=["near the mark", "far behind"])
def test_a_span_of_a_part_is_read_by_the_primary_key(
    connection: psycopg.Connection[Any], mode: str, types: list[str] | None, end: int
) -> None:
    reader = Reader(Session(open_engine("postgresql://nobody@/nothing")))
    statement, chosen = (reader._part, []) if types is None else (reader._types_part, [types])
    found = plan(connection, mode, statement, 50_000, end, *chosen, 8, 3, 500)
    assert "Index Scan using events_pkey" in found
    assert "Sort" not in found
    assert "Seq Scan on events" not in found


@pytest.mark.parametrize("types", [None, TYPES], ids=["all types", "some types"])
@pytest.mark.parametrize("known", ["analysed", "young"])
def test_the_next_event_of_each_part_is_looked_for_no_further_than_need_be(
    connection: psycopg.Connection[Any], mode: str, types: list[str] | None, known: str
) -> None:
    """By the pages it touches: 64 parts are looked for, each by a descent of the index and the rows up to its first."""
    look = Checkpoints("subscription 7", types)._look
    statement = f"explain (analyze, buffers, format json) {look}".encode()
    parameters = (types, [0, 1], [60_000, 70_000], ROWS, "subscription 7")
    with connection.transaction(force_rollback=True):
        if known == "young":
            connection.execute("delete from pg_statistic where starelid = 'perdure.events'::regclass")
        connection.execute(f"set local plan_cache_mode = {mode}".encode())
        # The first time the catalogs are read as well.
        connection.execute(look.encode(), parameters)
        row = connection.execute(statement, parameters).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    touched = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    assert touched < 64 * 12
    assert "Seq Scan" not in str(row)


def test_a_part_is_taken_and_moved_by_the_primary_key(connection: psycopg.Connection[Any], mode: str) -> None:
    checkpoints, name = Checkpoints("subscription 7", None), "subscription 7"
    for statement, parameters in (
        (checkpoints._take, (name, 64, [1, 2], [2, 1])),
        (checkpoints._move, (100, name, 3, 64, 7)),
        (checkpoints._pass_over, (name, 64, [3], [3], [100], name)),
        (checkpoints._all, (name,)),
    ):
        found = plan(connection, mode, statement, *parameters)
        assert "subscriptions_pkey" in found
        assert "Seq Scan" not in found

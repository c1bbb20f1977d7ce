"""The log is append-only, and the database says so: to a superuser, and in a session that switches triggers off."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from logs import new_stream, opened, read_stream, running

pytestmark = pytest.mark.every_postgres

SESSIONS = {"a superuser": "select 1", "a replica's session": "set session_replication_role = replica"}

REFUSED = [
    "update perdure.events set type = 'Other'",
    "update perdure.events set type = 'Other' where false",
    "delete from perdure.events",
    "delete from only perdure.events where position = 1",
    "truncate perdure.events",
    "truncate perdure.events, perdure.payloads restart identity cascade",
    "with gone as (delete from perdure.events returning 1) select * from gone",
    "insert into perdure.events overriding system value select * from perdure.events"
    " on conflict (position) do update set type = 'Other'",
    "merge into perdure.events e using (select 1) s on true when matched then update set type = 'Other'",
    "merge into perdure.events e using (select 1) s on true when matched then delete",
    "update perdure.payloads set payload = 'Other'",
    "delete from perdure.payloads",
    "truncate perdure.payloads",
]  # fmt: skip


@pytest.fixture
async def recorded_url(database_url: str) -> str:
    async with opened(database_url) as engine, running(engine) as appender:
        await appender.append(new_stream(2, payload=b"x" * 10_000))
    return database_url


@pytest.fixture(params=SESSIONS)
def connection(recorded_url: str, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(recorded_url, autocommit=True) as connection:
        connection.execute(SESSIONS[request.param].encode())
        yield connection


def contents(connection: psycopg.Connection[Any]) -> list[Any]:
    return connection.execute(
        "select e, p from perdure.events e join perdure.payloads p using (stream, version)"
    ).fetchall()


def test_what_is_recorded_cannot_be_changed_or_deleted(connection: psycopg.Connection[Any]) -> None:
    assert connection.execute("select rolsuper from pg_roles where rolname = current_user").fetchone() == (True,)
    before = contents(connection)
    assert len(before) == 2
    for statement in REFUSED:
        with pytest.raises(psycopg.Error, match=r"the log is append-only: .* is refused") as refused:
            connection.execute(statement.encode())
        assert refused.value.sqlstate == "PD001", statement
    assert contents(connection) == before


def test_the_refusal_names_the_table_and_says_what_to_do(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.Error) as refused:
        connection.execute("delete from perdure.payloads")
    assert refused.value.diag.message_primary == "the log is append-only: DELETE on perdure.payloads is refused"
    assert refused.value.diag.message_hint == "Record a new event instead."


def test_nobody_chooses_a_position(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.GeneratedAlways):
        connection.execute("insert into perdure.events select * from perdure.events")


async def test_and_the_log_goes_on(recorded_url: str) -> None:
    async with opened(recorded_url) as engine, running(engine) as appender:
        one = new_stream()
        await appender.append(one)
        assert len(await read_stream(engine, one.stream)) == 1

"""The `database` task against a real Postgres: documents, statements, whose transaction it is."""

import contextlib
import traceback
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from perdure.tasks.builtins import register_builtins
from perdure.tasks.database import OtherDatabase, database_task
from perdure.tasks.settings import DatabaseTaskSettings, TaskSettings
from perdure.tasks.statement import StatementFailed, StatementRefused
from perdure_engine.calling import call
from perdure_engine.errors import InputsInvalid, NoRetry, TransactionIsOurs
from perdure_engine.handlers import TaskType, task_type
from perdure_engine.task import Task
from perdure_engine.task_types import TaskTypes

RUN = uuid.UUID("019a0000-0000-7000-8000-000000000001")
OWN = task_type("database", database_task(DatabaseTaskSettings()))


def attempt(inputs: dict[str, Any], number: int = 1) -> Task:
    return Task(RUN, "user_onboarding", "create_user_profile", number, inputs, 7)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    async with engine.begin() as connection:
        await connection.execute(text("create table public.users (id int primary key, name text, extra jsonb)"))
    yield engine
    await engine.dispose()


async def run(engine: AsyncEngine, inputs: dict[str, Any], kind: TaskType = OWN) -> Any:
    """As the engine would: in a transaction that commits when the handler returns."""
    async with engine.begin() as connection:
        return await call(kind, attempt(inputs), connection)


async def statement(engine: AsyncEngine, sql: str, **parameters: Any) -> Any:
    return await run(engine, {"statement": sql, "parameters": parameters})


async def rows(engine: AsyncEngine, sql: str) -> list[tuple[Any, ...]]:
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(text(sql))]


async def test_without_a_statement_the_inputs_become_a_document(engine: AsyncEngine) -> None:
    inputs = {"user_data": {"name": "Ada", "big": 2**63 - 1, "half": 0.5, "tags": ["a", None]}}
    output = await run(engine, inputs)
    found = await rows(
        engine, "select document_id, run_id, task_id, document, recorded_at <= now() from perdure.documents"
    )
    assert found == [(uuid.UUID(output["document_id"]), RUN, "create_user_profile", inputs, True)]


async def test_a_document_keeps_its_numbers_as_written(engine: AsyncEngine) -> None:
    await run(engine, {"n": 1.0, "big": 2**64 - 1})
    assert await rows(engine, "select document::text from perdure.documents") == [
        ('{"n":1.0,"big":18446744073709551615}',)
    ]


async def test_a_task_that_runs_again_replaces_its_document(engine: AsyncEngine) -> None:
    first = await run(engine, {"n": 1})
    assert await run(engine, {"n": 2}) == first
    assert await rows(engine, "select document from perdure.documents") == [({"n": 2},)]


async def test_what_is_rolled_back_with_the_completion_is_not_there(engine: AsyncEngine) -> None:
    async with engine.connect() as connection, connection.begin() as transaction:
        await call(OWN, attempt({"n": 1}), connection)
        await transaction.rollback()
    assert await rows(engine, "select document from perdure.documents") == []


async def test_documents_lie_in_the_schema_that_was_named(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text('create schema "My App"'))
        await connection.execute(text('create table "My App".documents (like perdure.documents including all)'))
    kind = task_type("database", database_task(DatabaseTaskSettings(), schema="My App"))
    await run(engine, {"n": 1}, kind)
    assert await rows(engine, 'select document from "My App".documents') == [({"n": 1},)]
    assert await rows(engine, "select document from perdure.documents") == []


async def test_a_statement_takes_named_parameters(engine: AsyncEngine) -> None:
    output = await statement(
        engine, "insert into public.users values (:id, :name, :extra);", id=1, name="A'da; drop", extra={"x": [1]}
    )
    assert output == {"rowcount": 1, "rows": None}
    assert await rows(engine, "select * from public.users") == [(1, "A'da; drop", {"x": [1]})]


async def test_a_list_is_an_array_and_a_list_of_objects_is_json(engine: AsyncEngine) -> None:
    output = await statement(
        engine, "select 2 = any(:ids) as has, cast(:objects as json) as objects", ids=[1, 2], objects=[{"a": 1}]
    )
    assert output["rows"] == [{"has": True, "objects": [{"a": 1}]}]


async def test_rows_come_back_as_json(engine: AsyncEngine) -> None:
    output = await statement(
        engine,
        """select 1.10::numeric as price, timestamptz '2026-01-31 00:00+00' at time zone 'UTC' as at, null as nothing,
        '00000000-0000-0000-0000-000000000005'::uuid as id, '\\x00ff'::bytea as raw, int4range(1, 3) as span,
        interval '90 seconds' as wait""",
    )
    assert output == {
        "rowcount": 1,
        "rows": [
            {
                "price": "1.10",
                "at": "2026-01-31T00:00:00",
                "nothing": None,
                "id": "00000000-0000-0000-0000-000000000005",
                "raw": "AP8=",
                "span": "[1, 3)",
                "wait": "PT1M30S",
            }
        ],
    }


@pytest.mark.parametrize(
    "sql",
    [
        "commit",
        "COMMIT;",
        "  -- to be sure\n/* and so */ Rollback",
        "/* a /* nested */ comment */ commit",
        ";commit",
        "insert into public.users values (1); commit",
        "savepoint a",
        "release savepoint a",
        "abort",
        "end",
        "set role none",
        "discard all",
        "",
        "-- nothing",
    ],
)
async def test_a_statement_cannot_end_the_engines_transaction(engine: AsyncEngine, sql: str) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("insert into public.users values (1)"))
        with pytest.raises(InputsInvalid, match="/statement: "):
            await call(OWN, attempt({"statement": sql}), connection)
        await connection.rollback()
    assert await rows(engine, "select * from public.users") == []


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"statement": "select :a", "parameters": {}}, "/parameters: the statement names :a"),
        ({"statement": "select 1", "parameters": {"b": 1}}, r"/parameters/b: .* cast\(:b as json\)"),
        ({"statement": "select :b::json", "parameters": {"b": 1}}, r"/parameters/b: .* cast\(:b as json\)"),
        ({"statement": "select 1", "user": 1}, "/user: beside `statement` stands `parameters` alone"),
        ({"statement": 5}, "/statement: Input should be a valid string"),
    ],
)
async def test_a_statement_and_its_parameters_must_fit(
    engine: AsyncEngine, inputs: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputsInvalid, match=sentence):
        await run(engine, inputs)


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("selekt 1", "syntax error"),
        ("select * from nowhere", "does not exist"),
        ("select 1/0", "division by zero"),
        ("select generate_series(1, 10001)", "returned 10,001 rows; at most 10,000"),
        ("select 1 as a, 2 as a", "two columns named a"),
    ],
)
async def test_what_another_try_cannot_mend_is_not_retried(engine: AsyncEngine, sql: str, sentence: str) -> None:
    with pytest.raises(StatementRefused, match=sentence) as refused:
        await statement(engine, sql)
    assert isinstance(refused.value, NoRetry)


async def test_a_broken_constraint_may_be_retried_and_its_message_hides_the_parameters(engine: AsyncEngine) -> None:
    await statement(engine, "insert into public.users values (:id, :name)", id=1, name="a")
    with pytest.raises(StatementFailed, match="users_pkey") as failed:
        # Put together, since a traceback shows this line too.
        await statement(engine, "insert into public.users values (:id, :name)", id=1, name="s3" + "cret")
    assert "s3cret" not in "".join(traceback.format_exception(failed.value))


async def test_a_lost_connection_is_no_failure_of_the_statement(engine: AsyncEngine) -> None:
    with pytest.raises(psycopg.OperationalError):
        await statement(engine, "select pg_terminate_backend(pg_backend_pid())")


async def test_a_row_and_ten_thousand_rows_are_kept(engine: AsyncEngine) -> None:
    assert len((await statement(engine, "select generate_series(1, 10000) as n"))["rows"]) == 10_000


async def commits(connection: AsyncConnection) -> None:
    await connection.execute(text("insert into public.users values (1)"))
    await connection.commit()


async def rolls_back(connection: AsyncConnection) -> None:
    await connection.execute(text("insert into public.users values (1)"))
    await connection.rollback()


async def commits_in_secret(connection: AsyncConnection) -> None:
    await connection.execute(text("insert into public.users values (1)"))
    with contextlib.suppress(Exception):
        await connection.commit()


@pytest.mark.parametrize("handler", [commits, rolls_back, commits_in_secret])
async def test_an_exactly_once_handler_cannot_end_its_transaction(
    engine: AsyncEngine, handler: Callable[..., Any]
) -> None:
    with pytest.raises(TransactionIsOurs, match="begin_nested"):
        await run(engine, {}, task_type("write", handler))
    assert await rows(engine, "select * from public.users") == []


async def test_an_exactly_once_type_needs_a_connection_in_a_transaction(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        with pytest.raises(TypeError, match="in a transaction"):
            await call(OWN, attempt({"n": 1}), connection)


async def test_the_connection_can_be_committed_after_the_handler(engine: AsyncEngine) -> None:
    async def handler(connection: AsyncConnection) -> None:
        with contextlib.suppress(ValueError):
            async with connection.begin_nested():
                await connection.execute(text("insert into public.users values (1)"))
                raise ValueError
        await connection.execute(text("insert into public.users values (2)"))

    await run(engine, {}, task_type("write", handler))
    assert await rows(engine, "select id from public.users") == [(2,)]


async def test_a_session_works_in_the_engines_transaction(engine: AsyncEngine) -> None:
    async def handler(session: AsyncSession, n: int) -> None:
        await session.execute(text("insert into public.users values (:n)"), {"n": n})
        if n == 2:
            await session.commit()
        if n == 3:
            await session.rollback()

    kind = task_type("write", handler)
    for n in (1, 2, 3):
        await run(engine, {"n": n}, kind)
    assert await rows(engine, "select id from public.users order by id") == [(1,), (2,)]
    async with engine.connect() as connection, connection.begin() as transaction:
        await call(kind, attempt({"n": 4}), connection)
        await transaction.rollback()
    assert await rows(engine, "select max(id) from public.users") == [(2,)]


async def test_another_database_is_written_at_least_once(engine: AsyncEngine, database_url: str) -> None:
    handler = database_task(DatabaseTaskSettings(url=SecretStr(database_url)))
    assert isinstance(handler, OtherDatabase)
    kind = task_type("database", handler)
    assert not kind.exactly_once
    task = attempt({"statement": "insert into public.users values (:n) returning id", "parameters": {"n": 5}})
    try:
        assert await call(kind, task) == {"rowcount": 1, "rows": [{"id": 5}]}
        with pytest.raises(StatementFailed):
            await call(kind, task)
        with pytest.raises(InputsInvalid, match="/statement: this input is missing"):
            await call(kind, attempt({"user_data": 1}))
    finally:
        await handler.aclose()
    assert await rows(engine, "select id from public.users") == [(5,)]


async def test_naming_perdures_own_database_is_naming_none(database_url: str) -> None:
    def exactly_once(own: str, configured: str) -> bool:
        settings = DatabaseTaskSettings(url=SecretStr(configured))
        return task_type("database", database_task(settings, own_url=own)).exactly_once

    assert exactly_once("postgresql://a:x@h/d", "postgresql+psycopg://a@h:5432/d")
    assert not exactly_once("postgresql://a@h/d", "postgresql://a@h/other")
    assert not exactly_once("postgresql://a@h/d", "postgresql://b@h/d")
    assert exactly_once(database_url, database_url)


def test_a_url_nobody_can_read_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match="cannot be read") as refused:
        database_task(DatabaseTaskSettings(url=SecretStr("s3cret")))
    assert "s3cret" not in "".join(traceback.format_exception(refused.value)).replace('SecretStr("s3cret")', "")


async def test_the_builtins_are_registered_and_an_applications_own_stays() -> None:
    async def mine(**anything: Any) -> None: ...

    types = TaskTypes()
    types.add(task_type("email", mine))
    close = register_builtins(types, TaskSettings())
    assert types.names() == ["database", "email", "http"]
    assert types.get("email").handler is mine
    assert [name for name in types if types.is_builtin(name)] == ["database", "http"]
    assert types.get("database").exactly_once
    await close()

"""The migrations: up from empty they make the tables in code, and anybody may run them at any time."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from logs import execute, new_stream, opened, reading, rows, running, until
from sqlalchemy import MetaData, create_engine, make_url
from sqlalchemy.pool import NullPool

from perdure.migrate import REVISION, check_schema, migrate
from perdure_engine.tables import metadata as engine_tables
from perdure_eventstore.database import raw_connection
from perdure_eventstore.errors import SchemaMissing
from perdure_eventstore.feed import Feed
from perdure_eventstore.tables import metadata as log_tables
from perdure_eventstore.verify import verify
from perdure_projections.tables import metadata as view_tables

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.every_postgres

OBJECTS = """
    select 'relation', relname, relkind::text, reloptions::text from pg_class
        where relnamespace = %(schema)s::regnamespace
    union all select 'function', proname, pg_get_function_arguments(oid), prosrc from pg_proc
        where pronamespace = %(schema)s::regnamespace
    union all select 'trigger', tgname, tgenabled::text, tgtype::text
        from pg_trigger t join pg_class c on c.oid = tgrelid where relnamespace = %(schema)s::regnamespace
    order by 1, 2, 3, 4"""


@pytest.fixture
def empty_url(database_url: str) -> Iterator[str]:
    """The URL of a database with nothing in it."""
    name = f"test_{uuid4().hex}"
    execute(database_url, f"create database {name} template template0")
    yield make_url(database_url).set(database=name).render_as_string(hide_password=False)
    execute(database_url, f"drop database {name} with (force)")


def objects(url: str, schema: str = "perdure") -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(OBJECTS.encode(), {"schema": f'"{schema}"'}).fetchall()


def run_alembic(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


async def test_up_from_empty_they_equal_the_tables_in_code(empty_url: str) -> None:
    async with opened(empty_url) as engine:
        await migrate(engine)
    in_code = MetaData()
    for metadata in (log_tables, engine_tables, view_tables):
        for table in metadata.tables.values():
            table.to_metadata(in_code)
    engine_ = create_engine(make_url(empty_url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine_.connect() as connection:
        options = {
            "include_schemas": True,
            "include_name": lambda name, kind, _parents: kind != "schema" or name == "perdure",
            "version_table_schema": "perdure",
            "compare_server_default": True,
        }
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, in_code) == []


def test_the_newest_migration_is_the_one_this_version_needs() -> None:
    script = ScriptDirectory.from_config(Config(ROOT / "alembic.ini"))
    assert script.get_heads() == [REVISION]


async def test_migrating_again_changes_nothing(empty_url: str) -> None:
    async with opened(empty_url) as engine:
        await migrate(engine)
        before = objects(empty_url)
        await migrate(engine)
        await check_schema(engine)
    assert objects(empty_url) == before
    assert len(before) > 20


async def test_two_processes_that_migrate_at_once_both_find_it_done(empty_url: str) -> None:
    each = [asyncio.to_thread(run_alembic, "upgrade", "head", PERDURE_DATABASE_URL=empty_url) for _ in range(2)]
    for found in await asyncio.gather(*each):
        assert (found.returncode, found.stderr) == (0, "")
    assert rows(empty_url, "select count(*) from perdure.alembic_version") == [(1,)]


async def test_who_migrates_waits_for_another_who_does(empty_url: str) -> None:
    waits = "select from pg_locks where locktype = 'advisory' and not granted"
    first = create_engine(make_url(empty_url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    async with opened(empty_url) as engine, anyio.create_task_group() as group:
        with first.begin() as connection:
            config = Config(ROOT / "alembic.ini")
            config.attributes.update(connection=connection, schema="perdure")
            command.upgrade(config, "head")
            group.start_soon(migrate, engine)
            await until(lambda: bool(rows(empty_url, waits)))
    async with opened(empty_url) as engine:
        await check_schema(engine)


async def test_two_apps_of_one_process_migrate_at_once(empty_url: str) -> None:
    async with opened(empty_url) as engine, opened(empty_url) as other:
        await asyncio.gather(migrate(engine), migrate(other), migrate(engine, "shop"))
        await check_schema(engine)
        await check_schema(engine, "shop")


async def test_a_migration_that_fails_leaves_nothing(empty_url: str) -> None:
    execute(empty_url, "create schema perdure", "create table perdure.projections ()")
    async with opened(empty_url) as engine:
        with pytest.raises(Exception, match="already exists"):
            await migrate(engine)
        assert rows(empty_url, "select relname from pg_class where relnamespace = 'perdure'::regnamespace") == [
            ("projections",)
        ]
        execute(empty_url, "drop table perdure.projections")
        await migrate(engine)


@pytest.mark.parametrize("schema", ["shop", "Two Words-2"])
async def test_another_schema_is_whole_and_separate(database_url: str, schema: str) -> None:
    async with opened(database_url) as engine:
        await migrate(engine, schema)
        await check_schema(engine, schema)
        async with running(engine, schema=schema) as appender, reading(engine, schema) as reader:
            feed = Feed(engine, schema)
            looking = asyncio.create_task(feed.run())
            one = new_stream(2, payload=b"x" * 10_000)
            appended = await appender.append(type(one)(one.stream, one.expected, one.events, announce=True))
            assert await asyncio.wait_for(feed.beyond(0), 5) == appended.positions[-1]
            assert len(await reader.span(0, feed.mark)) == 2
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        async with raw_connection(engine) as connection:
            found = [progress async for progress in verify(connection, schema)][-1]
            assert (found.events, found.streams, found.fault) == (2, 1, None)
    assert rows(database_url, "select count(*) from perdure.events") == [(0,)]
    with pytest.raises(psycopg.Error, match=f"DELETE on {schema}.events is refused"):
        execute(database_url, f'delete from "{schema}".events')
    leftovers = [found for found in objects(database_url, schema) if "perdure." in str(found[3])]
    assert [name for _, name, *_ in leftovers] == ["event_hash_v1"]  # the name of the hash's format
    assert "'perdure.event.v1'" in leftovers[0][3]


async def test_a_database_of_a_newer_version_is_refused_with_a_sentence_and_left_alone(database_url: str) -> None:
    execute(database_url, "update perdure.alembic_version set version_num = '9999'")
    sentence = "the schema 'perdure' is at 9999, newer than this Perdure knows; upgrade the package"
    async with opened(database_url) as engine:
        for use in (check_schema, migrate):
            with pytest.raises(SchemaMissing, match=sentence):
                await use(engine)
    found = run_alembic("upgrade", "head", PERDURE_DATABASE_URL=database_url)
    assert found.returncode != 0
    assert sentence in found.stdout + found.stderr
    assert "Traceback" not in found.stderr
    assert rows(database_url, "select version_num from perdure.alembic_version") == [("9999",)]


async def test_a_database_without_perdure_is_told_what_to_run(empty_url: str) -> None:
    async with opened(empty_url) as engine:
        with pytest.raises(SchemaMissing, match="has no schema 'perdure' of Perdure's; run `perdure migrate`"):
            await check_schema(engine)
        async with running(engine) as appender:
            with pytest.raises(SchemaMissing, match="run `perdure migrate`"):
                await appender.append(new_stream())


async def test_alembic_upgrade_head_at_the_root_equals_perdure_migrate(database_url: str, empty_url: str) -> None:
    found = run_alembic("upgrade", "head", PERDURE_DATABASE_URL=empty_url)
    assert (found.returncode, found.stderr) == (0, "")
    assert objects(empty_url) == objects(database_url)
    async with opened(empty_url) as engine:
        await check_schema(engine)
    found = run_alembic("upgrade", "head", PERDURE_DATABASE_URL=empty_url, PERDURE_SCHEMA_NAME="shop")
    assert found.returncode == 0, found.stderr
    assert len(objects(empty_url, "shop")) == len(objects(empty_url))


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, "no database is named"),
        ({"PERDURE_DATABASE_URL": "mysql://x"}, "'mysql' names no database"),
        ({"PERDURE_DATABASE_URI": "postgresql://x"}, "there is no setting PERDURE_DATABASE_URI"),
    ],
)
def test_alembic_says_what_is_missing(environment: dict[str, str], sentence: str) -> None:
    found = run_alembic("upgrade", "head", **environment)
    assert found.returncode != 0
    assert sentence in found.stdout + found.stderr
    assert "Traceback" not in found.stderr


def test_alembic_migrates_an_embedded_database_and_leaves_no_server(tmp_path: Path) -> None:
    found = run_alembic("upgrade", "head", PERDURE_DATABASE_URL=f"embedded:{tmp_path / 'here'}")
    assert (found.returncode, found.stderr) == (0, "")
    assert (tmp_path / "here" / "postgres" / "PG_VERSION").exists()
    assert not (tmp_path / "here" / "postgres" / "postmaster.pid").exists()

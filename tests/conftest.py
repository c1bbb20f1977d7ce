"""One Postgres a session, one migrated template in it, a fresh database of one's own a test.

The server is the embedded one, or that of PERDURE_TEST_DATABASE_URL (its user must be a superuser). A module marked
``every_postgres`` runs a second time on Debian's Postgres 15, the oldest that Perdure runs on, where that is installed.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from debian_postgres import BINARIES, DebianPostgres
from postgres_server import roomy_memory
from psycopg import sql
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import NullPool

from perdure.embedded import EmbeddedPostgres

ROOT = Path(__file__).parent.parent

# Taken out of the environment: Perdure itself refuses settings it does not know.
GIVEN_URL = os.environ.pop("PERDURE_TEST_DATABASE_URL", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres",
        choices=["newest", "15", "all"],
        default="all",
        help="newest: no test a second time; 15: only what runs a second time, on Debian's Postgres 15; all: both",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "every_postgres: run with each version of Postgres there is here")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_url" in metafunc.fixturenames and metafunc.definition.get_closest_marker("every_postgres"):
        metafunc.parametrize("database_url", ["template", "template_15"], ids=["newest", "15"], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (wanted := config.getoption("postgres")) != "all":
        others = [item for item in items if _postgres_of(item) != wanted]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]


def _postgres_of(item: pytest.Item) -> str:
    """The version an item runs on: that of its database, or of a server of its own."""
    given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return "15" if given.get("database_url") == "template_15" or given.get("version") == "15" else "newest"


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a Postgres that lives as long as the session."""
    if GIVEN_URL is not None:
        yield GIVEN_URL
        return
    with TemporaryDirectory(prefix="postgres-", dir=roomy_memory()) as folder:
        server = EmbeddedPostgres(Path(folder) / "data")
        url = server.acquire()
        with psycopg.connect(url, autocommit=True) as connection:
            # What is thrown away needs no fsync, and dropping a database is a checkpoint.
            connection.execute("alter system set fsync = off")
            connection.execute("select pg_reload_conf()")
        yield url
        server.release()


@pytest.fixture(scope="session")
def template(postgres_url: str) -> Iterator[str]:
    """The URL of a migrated database that nobody connects to."""
    yield from _template(postgres_url)


@pytest.fixture(scope="session")
def template_15() -> Iterator[str]:
    """The same on Postgres 15."""
    if not BINARIES.is_dir():
        pytest.skip("Debian's postgresql-15 is not installed")
    server = DebianPostgres()
    try:
        url = server.start()
        try:
            yield from _template(url)
        finally:
            server.stop()
    finally:
        server.remove()


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a fresh migrated database."""
    template = request.getfixturevalue(getattr(request, "param", "template"))
    name = f"test_{uuid4().hex}"
    with psycopg.connect(_renamed(template, "postgres"), autocommit=True) as connection:
        connection.execute(
            # Copied as files it takes two thirds of the time.
            sql.SQL("create database {} template {} strategy file_copy").format(
                sql.Identifier(name), sql.Identifier(make_url(template).database or "")
            )
        )
    yield _renamed(template, name)
    _drop(template, name)


def _template(server_url: str) -> Iterator[str]:
    name = f"template_{uuid4().hex}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
    url = _renamed(server_url, name)
    config = Config(ROOT / "alembic.ini")
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.begin() as migrating:
        config.attributes.update(connection=migrating, schema="perdure")
        command.upgrade(config, "head")
    yield url
    _drop(url, name)


def _drop(url: str, name: str) -> None:
    with psycopg.connect(_renamed(url, "postgres"), autocommit=True) as connection:
        for (prepared,) in connection.execute("select gid from pg_prepared_xacts where database = %s", (name,)):
            with psycopg.connect(_renamed(url, name), autocommit=True) as inside:
                inside.execute(sql.SQL("rollback prepared {}").format(prepared))
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _renamed(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)

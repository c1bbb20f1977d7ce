"""One Postgres a session, one migrated template in it, a fresh database of one's own a test."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from psycopg import sql
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import NullPool

from perdure.embedded import EmbeddedPostgres

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Postgres that lives as long as the session."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    yield server.acquire()
    server.release()


@pytest.fixture(scope="session")
def template(postgres_url: str) -> str:
    """The name of a migrated database that nobody connects to."""
    name = "perdure_template"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    config = Config(ROOT / "alembic.ini")
    url = make_url(_renamed(postgres_url, name)).set(drivername="postgresql+psycopg")
    with create_engine(url, poolclass=NullPool).begin() as migrating:
        config.attributes.update(connection=migrating, schema="perdure")
        command.upgrade(config, "head")
    return name


@pytest.fixture
def database_url(postgres_url: str, template: str) -> Iterator[str]:
    """The URL of a fresh migrated database."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        )
    yield _renamed(postgres_url, name)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _renamed(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)

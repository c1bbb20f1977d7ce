"""Bringing a database's schema to this version: alembic's migrations, shipped with the package."""

import re
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from anyio import to_thread
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool

from perdure_eventstore.errors import LogError, SchemaMissing
from perdure_eventstore.session import Session

# Alembic is imported where it is used: it takes a sixth of a second, and most starts find nothing to migrate.
if TYPE_CHECKING:
    from alembic.config import Config

REVISION = "0003"
"""The revision this version of Perdure needs: the newest of the migrations (a test holds them equal)."""

# Alembic keeps what it is doing in a module's globals, so in one process there is one migration at a time.
_ALEMBIC = Lock()


def migrations() -> "Config":
    """Alembic's configuration for the migrations that came with this package."""
    from alembic.config import Config

    here = Path(__file__).parent
    shipped = here / "migrations"
    config = Config()
    config.set_main_option("script_location", str(shipped if shipped.is_dir() else here.parent / "migrations"))
    return config


def run_sql(*names: str) -> None:
    """For a migration: run these files of ``sql/``, with the schema's own name in the place of ``perdure.``"""
    from alembic import context, op

    folder = Path(migrations().get_main_option("script_location") or "") / "sql"
    schema = context.get_context().version_table_schema
    # The driver's own cursor: with no parameters it takes a whole script, and leaves every % alone.
    cursor = op.get_bind().connection.cursor()
    for name in names:
        if script := re.sub(r"(?<!')\bperdure\.", f'"{schema}".', (folder / name).read_text()):
            cursor.execute(script)
    cursor.close()


async def migrate(engine: AsyncEngine, schema: str = "perdure") -> None:
    """Create or upgrade the schema. Safe to call from several processes at once, and again."""
    if await _found(engine, schema) == [REVISION]:
        return

    def upgrade() -> None:
        from alembic import command

        config = migrations()
        url = engine.url.set(drivername="postgresql+psycopg")
        with _ALEMBIC, create_engine(url, poolclass=NullPool).begin() as connection:
            config.attributes.update(connection=connection, schema=schema)
            command.upgrade(config, "head")

    await to_thread.run_sync(upgrade)


async def check_schema(engine: AsyncEngine, schema: str = "perdure") -> None:
    """Raise SchemaMissing, with what to do, unless the database is at this version; LogError if it is unfit."""
    found = await _found(engine, schema)
    if found is None:
        raise SchemaMissing(f"the database has no schema {schema!r} of Perdure's; run `perdure migrate`")
    if found == [REVISION]:
        return
    at = ", ".join(found) or "no version"
    if set(found) <= _known():
        raise SchemaMissing(
            f"the schema {schema!r} is at {at}, and this Perdure needs {REVISION}; run `perdure migrate`"
        )
    raise SchemaMissing(f"the schema {schema!r} is at {at}, newer than this Perdure knows; upgrade the package")


async def _found(engine: AsyncEngine, schema: str) -> list[str] | None:
    """The revisions the schema is at; None where there is no schema. Raises LogError for a server too old."""
    session = Session(engine)
    try:
        number, version = (
            await session.fetch("select current_setting('server_version_num')::int, current_setting('server_version')")
        )[0]
        if number < 150000:
            raise LogError(f"this server is Postgres {version}; Perdure needs 15 or newer")
        table = f'"{schema}".alembic_version'
        if (await session.fetch("select to_regclass(%s)", (table,)))[0][0] is None:
            return None
        return [row[0] for row in await session.fetch(f"select version_num from {table}")]
    finally:
        await session.close()


def _known() -> set[str]:
    from alembic.script import ScriptDirectory

    return {revision.revision for revision in ScriptDirectory.from_config(migrations()).walk_revisions()}

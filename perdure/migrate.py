"""Bringing a database's schema to this version: alembic's migrations, shipped with the package."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.errors import LogError, SchemaMissing
from perdure_eventstore.session import Session


def _config() -> Config:
    here = Path(__file__).parent
    shipped = here / "migrations"
    config = Config()
    config.set_main_option("script_location", str(shipped if shipped.is_dir() else here.parent / "migrations"))
    return config


def newest() -> str:
    """The revision this version of Perdure needs."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


async def migrate(engine: AsyncEngine, schema: str = "perdure") -> None:
    """Create or upgrade the schema. Safe to call from several processes at once, and again."""

    def upgrade(connection: Connection) -> None:
        config = _config()
        config.attributes.update(connection=connection, schema=schema)
        command.upgrade(config, "head")

    async with engine.begin() as connection:
        await connection.run_sync(upgrade)


async def check_schema(engine: AsyncEngine, schema: str = "perdure") -> None:
    """Raise SchemaMissing, with what to do, unless the database is at this version; LogError if it is unfit."""
    session = Session(engine)
    try:
        if int((await session.fetch("show server_version_num"))[0][0]) < 150000:
            version = (await session.fetch("show server_version"))[0][0]
            raise LogError(f"this server is Postgres {version}; Perdure needs 15 or newer")
        table = f'"{schema}".alembic_version'
        if (await session.fetch("select to_regclass(%s)", (table,)))[0][0] is None:
            raise SchemaMissing(f"the database has no schema {schema!r} of Perdure's; run `perdure migrate`")
        found = [row[0] for row in await session.fetch(f"select version_num from {table}")]
    finally:
        await session.close()
    if found != [newest()]:
        known = [revision.revision for revision in ScriptDirectory.from_config(_config()).walk_revisions()]
        if set(found) <= set(known):
            raise SchemaMissing(f"the schema {schema!r} is at version {', '.join(found)}; run `perdure migrate`")
        raise SchemaMissing(
            f"the schema {schema!r} is at version {', '.join(found)}, newer than this Perdure; upgrade the package"
        )

"""Alembic's entry: migrates the schema that ``perdure migrate``, or alembic's own command line, names."""

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import context
from alembic.util import CommandError
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.pool import NullPool

from perdure.database import check_name, embedded_folder
from perdure.embedded import EmbeddedPostgres, EmbeddedPostgresError
from perdure.errors import PerdureError
from perdure.settings import Settings
from perdure_eventstore.errors import SchemaMissing
from perdure_eventstore.hosts import read_url

# Any constant will do; it only has to be the same for everyone who migrates this product.
MIGRATION_LOCK = 0x7065_7264_7572_6500


class SchemaNewer(SchemaMissing, CommandError):
    """The database was migrated by a later Perdure. Alembic's command line shows its sentence, and so does ours."""


def migrate(connection: Connection, schema: str) -> None:
    """Run the migrations on ``connection``, one migrator at a time, with Alembic's own table in ``schema``."""
    connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    quoted = connection.dialect.identifier_preparer.quote(schema)
    connection.execute(text(f"create schema if not exists {quoted}"))
    context.configure(connection=connection, version_table_schema=schema, schema=schema)
    found = context.get_context().get_current_heads()
    if not set(found) <= {revision.revision for revision in context.script.walk_revisions()}:
        raise SchemaNewer(
            f"the schema {schema!r} is at {', '.join(found)}, newer than this Perdure knows; upgrade the package"
        )
    context.run_migrations()


@contextmanager
def named(database: str | None) -> Iterator[str]:
    """The URL of the database that the environment names, an embedded one started for as long as it takes."""
    database = check_name(database)
    folder = embedded_folder(database)
    if folder is None:
        yield database.replace("postgres://", "postgresql://", 1)
        return
    server = EmbeddedPostgres(folder)
    url = server.acquire()
    try:
        yield url
    finally:
        server.release()


def main() -> None:
    options = context.config.attributes
    if (connection := options.get("connection")) is not None:
        migrate(connection, options.get("schema", "perdure"))
        return
    try:
        settings = Settings.load()
        with named(context.config.get_main_option("sqlalchemy.url") or settings.database_url) as url:
            engine = create_engine(read_url(url), poolclass=NullPool)
            with engine.begin() as connection:
                migrate(connection, settings.schema_name)
    except (PerdureError, EmbeddedPostgresError) as error:
        raise CommandError(str(error)) from error


main()

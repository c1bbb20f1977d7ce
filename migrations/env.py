"""Alembic's entry: migrates the schema that ``perdure migrate``, or alembic's own command line, names."""

from alembic import context
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.pool import NullPool

# Any constant will do; it only has to be the same for everyone who migrates this product.
MIGRATION_LOCK = 0x7065_7264_7572_6500


def migrate(connection: Connection, schema: str) -> None:
    """Run the migrations on ``connection``, one migrator at a time, with Alembic's own table in ``schema``."""
    connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    quoted = connection.dialect.identifier_preparer.quote(schema)
    connection.execute(text(f"create schema if not exists {quoted}"))
    context.configure(connection=connection, version_table_schema=schema, schema=schema)
    context.run_migrations()


def main() -> None:
    options = context.config.attributes
    schema = options.get("schema", "perdure")
    if (connection := options.get("connection")) is not None:
        migrate(connection, schema)
        return
    url = make_url(context.config.get_main_option("sqlalchemy.url") or "").set(drivername="postgresql+psycopg")
    with create_engine(url, poolclass=NullPool).begin() as connection:
        migrate(connection, schema)


main()

"""What the tests of export and import share."""

import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
from logs import rows
from psycopg import sql
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure.migrate import migrate
from perdure_eventstore.database import open_engine
from perdure_eventstore.transfer.export import EVERYTHING, Exported, export
from perdure_eventstore.transfer.form import form_named
from perdure_eventstore.transfer.frame import Selection
from perdure_eventstore.transfer.importing import Companion, Imported, import_file

LOG = "perdure/5f0d9a52-6a3e-4a55-9d3c-6c2f1f0c7a11"


@asynccontextmanager
async def another_log(beside: str) -> AsyncIterator[AsyncEngine]:
    """An engine on an empty database of the same server, which is dropped at the end."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(beside, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        engine = open_engine(make_url(beside).set(database=name).render_as_string(hide_password=False))
        try:
            await migrate(engine)
            yield engine
        finally:
            await engine.dispose()
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def url_of(engine: AsyncEngine) -> str:
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


async def exported(
    engine: AsyncEngine, form: str = "jsonl", selection: Selection = EVERYTHING
) -> tuple[bytes, Exported]:
    """An export, and what was said of it."""
    file = io.BytesIO()
    said = await export(engine, file.write, form_named(form, LOG), selection, log=LOG)
    return file.getvalue(), said


async def import_lines(engine: AsyncEngine, text: bytes, companion: Companion | None = None) -> Imported:
    return await import_file(engine, io.BytesIO(text), companion or Companion())


def content(url: str, *, positions: bool = False) -> Sequence[Any]:
    """Everything the log holds, in its order."""
    columns = """recorded_at, e.stream, e.version, schema_version, id, type, data::text, metadata::text,
        coalesce(e.payload, p.payload), payload_salt, payload_digest, hash"""
    return rows(
        url,
        f"""select {"position, " if positions else ""}{columns} from perdure.events e
        left join perdure.payloads p on p.stream = e.stream and p.version = e.version order by position""",
    )

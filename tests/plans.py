"""How Postgres plans a statement in a database that is full: with its parameters known, and without."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
from sqlalchemy import make_url

MODES = ["force_custom_plan", "force_generic_plan"]


@contextmanager
def filled(template: str, statements: Sequence[str]) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a database of its own, made from ``template`` and filled by ``statements``."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(make_url(template).set(database="postgres").render_as_string(False), autocommit=True) as admin:
        admin.execute(f"create database {name} template {make_url(template).database}".encode())
        url = make_url(template).set(database=name).render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())
            yield connection
        admin.execute(f"drop database {name} with (force)".encode())


def plan(connection: psycopg.Connection[Any], mode: str, statement: str, *parameters: Any) -> str:
    """The plan of ``statement`` as a prepared one, in one of ``MODES``."""
    with _prepared(connection, mode, statement, parameters) as (cursor, execute):
        cursor.execute(f"explain {execute}".encode())
        return "\n".join(line for (line,) in cursor.fetchall())


def touched(connection: psycopg.Connection[Any], mode: str, statement: str, *parameters: Any) -> int:
    """The pages that executing ``statement`` reads, in one of ``MODES``; what it does is rolled back."""
    with _prepared(connection, mode, statement, parameters) as (cursor, execute):
        # The first time, it reads what Postgres knows of the tables as well.
        return min(_pages(cursor, f"explain (analyze, buffers, format json) {execute}") for _ in range(2))


def _pages(cursor: psycopg.ClientCursor[Any], explain: str) -> int:
    cursor.execute("begin")
    try:
        found = cursor.execute(explain.encode()).fetchone()
        assert found is not None
        top = found[0][0]["Plan"]
        return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])
    finally:
        cursor.execute("rollback")


@contextmanager
def _prepared(
    connection: psycopg.Connection[Any], mode: str, statement: str, parameters: Sequence[Any]
) -> Iterator[tuple[psycopg.ClientCursor[Any], str]]:
    """A cursor, and what executes ``statement`` with ``parameters``."""
    connection.execute(f"set plan_cache_mode = {mode}".encode())
    with psycopg.ClientCursor(connection) as cursor:
        types = f"({', '.join(['unknown'] * len(parameters))})" if parameters else ""
        for place in range(1, len(parameters) + 1):
            statement = statement.replace("%s", f"${place}", 1)
        cursor.execute(f"prepare looked_at {types} as {statement}".encode())
        try:
            values = ", ".join(cursor.mogrify("%s", [value]) for value in parameters)
            yield cursor, f"execute looked_at {f'({values})' if values else ''}"
        finally:
            cursor.execute("deallocate looked_at")

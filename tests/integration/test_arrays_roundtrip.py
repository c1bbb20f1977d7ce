"""Arrays packed by hand arrive in Postgres as what they are, beside those that psycopg packs."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from logs import opened
from psycopg import AsyncConnection

from perdure_eventstore import arrays
from perdure_eventstore.arrays import Array
from perdure_eventstore.database import raw_connection

pytestmark = pytest.mark.every_postgres

IDS = [UUID(int=0), UUID(int=2**128 - 1), uuid4()]
BYTES = [b"", None, bytes(range(256)), b"\0" * 100_000]
ITEMS: dict[str, tuple[Array, list[Any]]] = {
    "uuid[]": (arrays.uuids([item.bytes for item in IDS]), IDS),
    "smallint[]": (arrays.smallints([-(2**15), 0, 2**15 - 1]), [-(2**15), 0, 2**15 - 1]),
    "integer[]": (arrays.integers([-(2**31), 0, 2**31 - 1]), [-(2**31), 0, 2**31 - 1]),
    "bigint[]": (arrays.bigints([-(2**63), 0, 2**63 - 1]), [-(2**63), 0, 2**63 - 1]),
    "text[]": (arrays.texts([b"", None, "größe 😀".encode(), b"{\"',}\\"]), ["", None, "größe 😀", "{\"',}\\"]),
    "bytea[]": (arrays.byteas(BYTES), BYTES),
}  # fmt: skip
EMPTY: dict[str, Array] = {
    "uuid[]": arrays.uuids([]),
    "smallint[]": arrays.smallints([]),
    "integer[]": arrays.integers([]),
    "bigint[]": arrays.bigints([]),
    "text[]": arrays.texts([]),
    "bytea[]": arrays.byteas([]),
}


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    async with opened(database_url) as engine, raw_connection(engine) as connection:
        yield connection


async def answer(connection: AsyncConnection[Any], statement: str, *parameters: Any) -> Any:
    cursor = await connection.execute(statement, parameters, prepare=True, binary=True)
    return await cursor.fetchone()


async def test_the_items_arrive(connection: AsyncConnection[Any]) -> None:
    for kind, (packed, items) in ITEMS.items():
        statement = f"select %s, pg_typeof(%s)::text, %s = %s::{kind}"
        assert await answer(connection, statement, packed, packed, packed, items) == (items, kind, True)


async def test_an_empty_array_arrives_empty(connection: AsyncConnection[Any]) -> None:
    for kind, packed in EMPTY.items():
        statement = f"select %s, pg_typeof(%s)::text, cardinality(%s), %s = '{{}}'::{kind}"
        assert await answer(connection, statement, *[packed] * 4) == ([], kind, 0, True)


async def test_one_statement_takes_arrays_of_every_kind(connection: AsyncConnection[Any]) -> None:
    for _ in range(7):  # past the point where psycopg and Postgres keep the plan
        found = await answer(
            connection, f"select {', '.join(['%s'] * len(ITEMS))}", *[packed for packed, _ in ITEMS.values()]
        )
        assert list(found) == [items for _, items in ITEMS.values()]

"""Arrays packed by hand arrive in Postgres as what they are, beside those that psycopg packs."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from logs import opened
from psycopg import AsyncClientCursor, AsyncConnection

from perdure_eventstore import arrays
from perdure_eventstore.database import raw_connection
from perdure_eventstore.prepared import Prepared

pytestmark = pytest.mark.every_postgres

IDS = [UUID(int=0), UUID(int=2**128 - 1), uuid4()]
BYTES = [b"", None, bytes(range(256)), b"\0" * 100_000]
ITEMS: dict[str, tuple[bytes, list[Any]]] = {
    "uuid[]": (arrays.uuids([item.bytes for item in IDS]), IDS),
    "smallint[]": (arrays.smallints([-(2**15), 0, 2**15 - 1]), [-(2**15), 0, 2**15 - 1]),
    "integer[]": (arrays.integers([-(2**31), 0, 2**31 - 1]), [-(2**31), 0, 2**31 - 1]),
    "bigint[]": (arrays.bigints([-(2**63), 0, 2**63 - 1]), [-(2**63), 0, 2**63 - 1]),
    "text[]": (arrays.texts([b"", None, "größe 😀".encode(), b"{\"',}\\"]), ["", None, "größe 😀", "{\"',}\\"]),
    "bytea[]": (arrays.byteas(BYTES), BYTES),
}  # fmt: skip
EMPTY: dict[str, bytes] = {
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


async def answer(connection: AsyncConnection[Any], statement: str, *packed: bytes) -> list[bytes | None]:
    result = await Prepared(statement, len(packed)).execute(connection, packed)
    return [result.get_value(0, column) for column in range(result.nfields)]


async def test_the_items_arrive(connection: AsyncConnection[Any]) -> None:
    for kind, (packed, items) in ITEMS.items():
        listed = ", ".join(["null" if item is None else "%s" for item in items])
        expected = AsyncClientCursor(connection).mogrify(
            f"array[{listed}]::{kind}", [item for item in items if item is not None]
        )
        assert await answer(connection, f"select $1::{kind} = {expected}", packed) == [b"\1"]


async def test_an_empty_array_arrives_empty(connection: AsyncConnection[Any]) -> None:
    for kind, packed in EMPTY.items():
        assert await answer(connection, f"select cardinality($1::{kind}) = 0", packed) == [b"\1"]


async def test_one_statement_takes_arrays_of_every_kind(connection: AsyncConnection[Any]) -> None:
    kinds = ", ".join(f"cardinality(${place}::{kind})" for place, kind in enumerate(ITEMS, 1))
    prepared = Prepared(f"select array[{kinds}]", len(ITEMS))
    for _ in range(7):  # past the point where Postgres keeps the plan
        result = await prepared.execute(connection, [packed for packed, _ in ITEMS.values()])
        assert arrays.unpack(result.get_value(0, 0)) == [len(items) for _, items in ITEMS.values()]

"""Keys in a Postgres table: the log's own database (table ``keys``), or another."""

from collections.abc import Iterable, Mapping
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.session import Session


class PostgresKeyStore:
    """See KeyStore. What is destroyed lives on for a while in dead tuples, the WAL and backups; see docs/privacy.md."""

    def __init__(self, engine: AsyncEngine, schema: str = "perdure") -> None:
        self._session = Session(engine)
        table = f'"{schema}".keys'
        # Where the log is not, no migration has made it.
        self._make = [
            f'create schema if not exists "{schema}"',
            f"create table if not exists {table} (stream uuid primary key, wrapped bytea, destroyed_at timestamptz)",
        ]
        self._get = f"select stream, wrapped from {table} where stream = any(%s)"
        self._create = f"""insert into {table} (stream, wrapped)
            select * from unnest(%s::uuid[], %s::bytea[]) order by 1 on conflict do nothing returning stream, wrapped"""
        self._destroy = f"""insert into {table} as k (stream, destroyed_at)
            select s, clock_timestamp() from unnest(%s::uuid[]) s order by 1
            on conflict (stream) do update set wrapped = null, destroyed_at = excluded.destroyed_at
            where k.destroyed_at is null"""
        self._page = f"""select stream, wrapped from {table}
            where wrapped is not null and (%s::uuid is null or stream > %s) order by stream limit %s"""
        self._replace = f"""update {table} k set wrapped = r.new
            from unnest(%s::uuid[], %s::bytea[], %s::bytea[]) r(stream, old, new)
            where k.stream = r.stream and k.wrapped = r.old returning k.stream"""

    async def make(self) -> None:
        """Create the table where it is missing: in a database that is not the log's."""
        for statement in self._make:
            await self._session.fetch(statement)

    async def get(self, streams: Iterable[UUID]) -> dict[UUID, bytes | None]:
        return dict(await self._session.fetch(self._get, (list(streams),)))

    async def create(self, wrapped: Mapping[UUID, bytes]) -> dict[UUID, bytes | None]:
        rows = await self._session.fetch(self._create, (list(wrapped), list(wrapped.values())))
        standing: dict[UUID, bytes | None] = dict(rows)
        if taken := wrapped.keys() - standing.keys():
            standing |= await self.get(taken)
        return standing

    async def destroy(self, streams: Iterable[UUID]) -> None:
        await self._session.fetch(self._destroy, (list(streams),))

    async def page(self, after: UUID | None, limit: int) -> list[tuple[UUID, bytes]]:
        return await self._session.fetch(self._page, (after, after, limit))

    async def replace(self, rewrapped: Mapping[UUID, tuple[bytes, bytes]]) -> int:
        old, new = [pair[0] for pair in rewrapped.values()], [pair[1] for pair in rewrapped.values()]
        return len(await self._session.fetch(self._replace, (list(rewrapped), old, new)))

    async def close(self) -> None:
        await self._session.close()

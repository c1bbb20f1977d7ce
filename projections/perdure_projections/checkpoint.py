"""How far each projection has come: its row in ``projections``, taken, moved and stopped in the fold's transaction."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import AsyncConnection, AsyncCursor

from perdure_eventstore.errors import LogError
from perdure_projections.projection import Projection


class CheckpointMoved(LogError):
    """Somebody else folded this range first. What was folded here must be rolled back."""


class Place(NamedTuple):
    """Where a projection stands: folded up to ``position`` by ``version``, and ``stopped`` there or not."""

    position: int
    version: int
    stopped: bool


class Checkpoints:
    """The rows of ``projections`` in one schema."""

    def __init__(self, schema: str = "perdure") -> None:
        self._schema = schema
        table = f'"{schema}".projections'
        # Neither waits for a runner that has the row.
        self._declare = f"insert into {table} (name, version) values (%s, %s) on conflict do nothing"
        # An error belongs to the version that met it.
        self._take_over = f"update {table} set version = %s, error = null where name = %s and version < %s"
        self._take = f"""select position, version, error is not null from {table} where name = %s
            for update skip locked"""
        self._move = f"""update {table} set position = %s, updated_at = clock_timestamp(), error = null
            where name = %s and version = %s and position = %s"""
        self._stop = f"""update {table} set error = %s, updated_at = clock_timestamp()
            where name = %s and version = %s and position = %s"""
        self._event = f'select type, stream, version from "{schema}".events where position = %s'
        self._positions = f"select name, position from {table}"
        # The folds name their tables without a schema, so that they can be folded into another one beside it.
        self._enter = (
            "select set_config('search_path', quote_ident(%s) || ', ' || current_setting('search_path'), false)"
        )

    async def enter(self, connection: AsyncConnection[Any]) -> None:
        """Put the schema in front of the search_path of a new connection."""
        await connection.execute(self._enter, (self._schema,))

    async def declare(self, connection: AsyncConnection[Any], projections: Sequence[Projection]) -> None:
        """Give each its row, from the beginning of the log; a higher version takes over the row of a lower one."""
        for projection in projections:
            name, version = projection.name, projection.version
            await connection.execute(self._declare, (name, version))
            await connection.execute(self._take_over, (version, name, version))

    async def take(self, connection: AsyncConnection[Any], projection: Projection) -> Place | None:
        """Lock its row to the end of the transaction, and return it; None where another runner has it."""
        row = await (await connection.execute(self._take, (projection.name,))).fetchone()
        return Place(*row) if row else None

    async def move(self, connection: AsyncConnection[Any], projection: Projection, first: int, last: int) -> None:
        """From ``first`` to ``last``. Raises CheckpointMoved where it no longer stands at ``first``."""
        moved = await connection.execute(self._move, (last, projection.name, projection.version, first))
        _expect(moved, projection, first)

    async def stop(self, connection: AsyncConnection[Any], projection: Projection, at: int, reason: str) -> str:
        """Record that the event at position ``at`` cannot be folded; returns the sentence recorded.

        Raises CheckpointMoved where the projection does not stand right before it.
        """
        row = await (await connection.execute(self._event, (at,))).fetchone()
        event = f"{row[0]}, version {row[2]} of stream {row[1]}" if row else "no event"
        error = f"position {at} ({event}): {reason}"
        stopped = await connection.execute(self._stop, (error, projection.name, projection.version, at - 1))
        _expect(stopped, projection, at - 1)
        return error

    async def positions(self, connection: AsyncConnection[Any]) -> dict[str, int]:
        """How far each projection has folded."""
        rows = await connection.execute(self._positions)
        return {name: position async for name, position in rows}


def _expect(changed: AsyncCursor[Any], projection: Projection, position: int) -> None:
    if changed.rowcount != 1:
        raise CheckpointMoved(f"projection {projection.name} no longer stands at position {position}")

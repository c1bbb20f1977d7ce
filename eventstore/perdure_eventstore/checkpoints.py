"""How far each part of a subscription has come: its rows in ``subscriptions``, looked at, taken and moved."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg.types.string import ByteaBinaryLoader

from perdure_eventstore.errors import LogError, domain_error
from perdure_eventstore.read import Source

STRIDE = 100_000
"""Positions that one statement looks through: one who seeks a rare event in a long log comes on by bounded steps."""


class Place(NamedTuple):
    """Where a part stands, and its first event beyond, if there is one up to ``searched``."""

    part: int
    parts: int
    position: int
    searched: int
    next: int | None


class Taken(NamedTuple):
    """A part whose row is locked to the end of the transaction."""

    part: int
    position: int


class Transaction:
    """Statements inside a transaction that somebody else began and ends."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection

    @property
    def lost(self) -> bool:
        """Whether its connection broke."""
        return self._connection.closed

    @property
    def ended(self) -> bool:
        """Whether it was committed or rolled back."""
        return self._connection.info.transaction_status is TransactionStatus.IDLE

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run ``statement`` and return its rows, json as bytes. Raises LogError."""
        try:
            async with self._connection.cursor(binary=True) as cursor:
                # For this cursor alone: others who use the connection get json parsed.
                cursor.adapters.register_loader("json", ByteaBinaryLoader)
                await cursor.execute(statement, parameters, prepare=True)
                return await cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise domain_error(error) from error


class Checkpoints:
    """The rows of one subscription."""

    def __init__(self, name: str, types: Sequence[str] | None, schema: str = "perdure") -> None:
        self._name = name
        self._types = None if types is None else list(types)
        table = f'"{schema}".subscriptions'
        # Of several who begin at once, the one whose first part it is makes the others too.
        self._begin = f"""with first as (
                insert into {table} (name, part, parts, position) values (%s, 0, %s, %s) on conflict do nothing
                returning name, parts, position)
            insert into {table} (name, part, parts, position)
            select name, part, parts, position from first, generate_series(1, parts - 1) part"""
        self._look = f"""select s.part, s.parts, s.position, span.last,
                "{schema}".next_event(span.first, span.last, %s::text[], s.parts, s.part)
            from {table} s left join unnest(%s::smallint[], %s::bigint[]) known(part, position) on known.part = s.part
            cross join lateral (select greatest(s.position, known.position) as first,
                least(%s, greatest(s.position, known.position) + {STRIDE}) as last) span
            where s.name = %s order by s.part"""
        self._take = f"""select part, position from {table}
            where name = %s and parts = %s and part = any(%s::smallint[])
            order by array_position(%s::smallint[], part) limit 1 for update skip locked"""
        self._move = f"""update {table} set position = %s
            where name = %s and part = %s and parts = %s and position = %s returning part"""
        self._pass_over = f"""with free as (
                select part from {table} where name = %s and parts = %s and part = any(%s::smallint[])
                for update skip locked)
            update {table} s set position = known.position
            from free join unnest(%s::smallint[], %s::bigint[]) known(part, position) on known.part = free.part
            where s.name = %s and s.part = free.part and s.position < known.position"""
        self._all = f"select part, parts, position from {table} where name = %s order by part for update"
        self._clear = f"delete from {table} where name = %s"
        self._divide = f"""insert into {table} (name, part, parts, position)
            select %s, part - 1, %s, position from unnest(%s::bigint[]) with ordinality new(position, part)"""

    async def begin(self, source: Source, parts: int, position: int) -> None:
        """Make the rows, unless they are there."""
        await source.fetch(self._begin, (self._name, parts, position))

    async def look(self, source: Source, mark: int, known: Mapping[int, int]) -> list[Place]:
        """Where each part stands, and its next event up to the settled ``mark``; locks nothing, writes nothing.

        ``known`` are positions up to which parts are known to hold nothing more.
        """
        passed = (list(known), list(known.values()))
        rows = await source.fetch(self._look, (self._types, *passed, mark, self._name))
        return [Place(*row) for row in rows]

    async def take(self, source: Source, parts: int, numbers: Sequence[int]) -> Taken | None:
        """Lock the first of ``numbers`` that nobody else has; None if somebody has each."""
        rows = await source.fetch(self._take, (self._name, parts, list(numbers), list(numbers)))
        return Taken(*rows[0]) if rows else None

    async def move(self, source: Source, parts: int, taken: Taken, position: int) -> None:
        """From where it was taken to ``position``. Raises LogError where it no longer stands there."""
        if not await source.fetch(self._move, (position, self._name, taken.part, parts, taken.position)):
            raise LogError(
                f"subscription {self._name!r}, part {taken.part} is no longer at position {taken.position}: "
                "its transaction ended before its checkpoint moved"
            )

    async def pass_over(self, source: Source, parts: int, known: Mapping[int, int]) -> None:
        """Move the parts that nobody has to where they are known to hold nothing before."""
        numbers, positions = list(known), list(known.values())
        await source.fetch(self._pass_over, (self._name, parts, numbers, numbers, positions, self._name))

    async def lock(self, source: Source) -> list[int]:
        """The position of each part, all locked to the end of the transaction."""
        return [position for _, _, position in await source.fetch(self._all, (self._name,))]

    async def divide(self, source: Source, positions: Sequence[int]) -> None:
        """Put as many parts as there are ``positions`` in the place of those there were."""
        await source.fetch(self._clear, (self._name,))
        await source.fetch(self._divide, (self._name, len(positions), list(positions)))

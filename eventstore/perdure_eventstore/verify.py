"""The check of the log: is every event what was recorded, in its place, and is nothing missing?

One pass in the order of position over the settled log. Each event must follow the one before it in its stream (chains
and payloads), the tree must have taken in just these events, and each head must be the tree's at its size.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from psycopg import AsyncConnection

from perdure_eventstore.checking.chains import ChainCheck, fault_at
from perdure_eventstore.checking.faults import Fault, fault_of
from perdure_eventstore.checking.heads import Heads, KnownHead, outside_heads
from perdure_eventstore.checking.rows import COLUMNS, POSITION, VERSION
from perdure_eventstore.checking.tables import check_tables
from perdure_eventstore.checking.tree import TreeCheck
from perdure_eventstore.errors import LogError
from perdure_eventstore.heads import origin
from perdure_eventstore.merkle import CompactRange
from perdure_eventstore.session import Borrowed, Session
from perdure_eventstore.settled import settled_end
from perdure_eventstore.tree import Tree, TreeFault

_PAGE = 512
"""Events a page: while one is checked, the server puts the next into the connection's buffer, which holds as many."""


class Place(msgspec.Struct, frozen=True):
    """Where a check has come to, the end of a chunk of the tree that is kept: another one can go on from here."""

    log_id: UUID
    schema: str
    position: int
    events: int
    streams: int
    heads: int
    tree: dict[str, Any]


class Progress(msgspec.Struct, frozen=True):
    """How far a check has come."""

    events: int
    streams: int
    heads: int = 0
    """Heads that were found right."""
    position: int = 0
    end: int = 0
    """The position up to which the log is checked."""
    fault: Fault | None = None
    place: Place | None = None


async def verify(
    connection: AsyncConnection[Any],
    schema: str = "perdure",
    stream: UUID | None = None,
    *,
    heads: Iterable[str] = (),
    heads_from: str = "published",
    keys: Sequence[Ed25519PublicKey] = (),
    place: Place | None = None,
) -> AsyncIterator[Progress]:
    """Check the whole log, or the chain of ``stream`` alone; yields as it goes, and stops at the first fault.

    ``heads`` are notes that were published outside of the database (``heads_from`` says where), ``keys`` those that
    heads may be signed with, ``place`` is where an earlier check had come to. ``connection`` returns json as written
    (``database.raw_connection``). Raises HeadRefused, PlaceRefused, LogError.
    """
    session = Borrowed(connection)
    if stream is not None:
        async for progress in _verify_stream(session, schema, stream):
            yield progress
        return
    check = await _LogCheck.begin(session, schema, list(heads), heads_from, keys, place)
    async for progress in check.run():
        yield progress


class PlaceRefused(LogError):
    """A check cannot go on from a place that is of another log."""


class _LogCheck:
    """One pass over the log."""

    def __init__(self, session: Session, schema: str, place: Place, end: int, heads: Heads) -> None:
        self._session, self._schema = session, schema
        self._begun, self._end = place, end
        self._chains = ChainCheck(session, schema)
        self._tree = TreeCheck(session, schema, CompactRange.from_json(place.tree), place.position, heads)
        self._events, self._streams = place.events, place.streams
        self._firsts: deque[int] = deque()

    @classmethod
    async def begin(
        cls,
        session: Session,
        schema: str,
        notes: Sequence[str],
        where: str,
        keys: Sequence[Ed25519PublicKey],
        place: Place | None,
    ) -> "_LogCheck":
        """Find out what there is to check."""
        log_id = (await session.fetch(f'select log_id from "{schema}".identity'))[0][0]
        outside = outside_heads(notes, origin(log_id), keys, where)
        place = place or Place(log_id, schema, 0, 0, 0, 0, CompactRange().as_json())
        if (place.log_id, place.schema) != (log_id, schema):
            raise PlaceRefused(
                f"the check that is to go on was of the log {place.log_id} in the schema {place.schema!r}, and this is "
                f"{log_id} in {schema!r}"
            )
        heads = Heads(session, schema, origin(log_id), keys, outside)
        try:
            check = cls(session, schema, place, await _end(session, schema, outside), heads)
        except (ValueError, KeyError, TypeError) as error:
            raise PlaceRefused(f"the place of the check that is to go on makes no sense: {error}") from error
        check._earlier = heads.skip(check._tree.tree.size)
        return check

    _earlier: Sequence[KnownHead] = ()
    """Heads of sizes that were checked already."""

    async def run(self) -> AsyncIterator[Progress]:
        """Check, page by page."""
        if fault := await self._check_earlier():
            yield self._progress(self._begun.position, fault)
            return
        # Also below 1, where nothing may be.
        after = self._begun.position or -(2**63)
        pages = _pages(self._session, self._schema, after, self._end)
        try:
            async for rows in pages:
                fault = await self._page(rows)
                yield self._progress(rows[-1][POSITION], fault)
                if fault:
                    return
        finally:
            await pages.aclose()
        fault = await self._tree.end(self._end) or await check_tables(self._session, self._schema)
        yield self._progress(self._end, fault)

    async def _page(self, rows: Sequence[Any]) -> Fault | None:
        upto = rows[-1][POSITION]
        if rows[0][POSITION] < 1:
            return fault_at(rows[0], "no event has a position below 1")
        found = await self._chains.page(rows)
        if found is not None and (now := await self._as_it_is(rows)) != rows:
            # Erased or archived since the page was read: what is there now is what counts.
            self._chains.forget(rows)
            rows, found = now, await self._chains.page(now)
        if found is not None:
            # A fault of the tree before it is the first: the chain may only show what follows from that one.
            position = rows[found.row][POSITION]
            earlier = await self._tree.take(rows[: found.row], position - 1)
            return earlier or await self._tree.before(position) or found.fault
        self._firsts.extend(row[POSITION] for row in rows if row[VERSION] == 1)
        self._events += len(rows)
        return await self._tree.take(rows, upto)

    async def _as_it_is(self, rows: Sequence[Any]) -> Sequence[Any]:
        select = page_of_log(self._schema)
        return await self._session.fetch(select, (rows[0][POSITION] - 1, rows[-1][POSITION]))

    async def _check_earlier(self) -> Fault | None:
        """Whether the tree is still the one that was checked before."""
        before = [(known.head.size, known.head.root, str(known)) for known in self._earlier]
        if self._tree.tree.size:
            before.append((self._tree.tree.size, self._tree.tree.root, "the tree at the place of the earlier check"))
        for size, root, name in before:
            try:
                same = await Tree(self._session, self._schema).root_at(size) == root
            except TreeFault as error:
                return fault_of(f"{name} cannot be found again: {error}")
            if not same:
                return fault_of(f"{name} had another root than the {size} events have now")
        return None

    def _progress(self, position: int, fault: Fault | None) -> Progress:
        """The place is the end of the last chunk kept; what comes after it is counted when it is met again."""
        reached = self._tree.reached
        while self._firsts and self._firsts[0] <= reached.position:
            self._firsts.popleft()
            self._streams += 1
        heads, events = self._begun.heads + self._tree.heads, self._events - self._tree.pending
        place = Place(
            self._begun.log_id,
            self._schema,
            reached.position,
            events,
            self._streams,
            self._begun.heads + reached.heads,
            reached.tree.as_json(),
        )
        streams = self._streams + len(self._firsts)
        return Progress(self._events, streams, heads, position, self._end, fault, None if fault else place)


async def _end(session: Session, schema: str, outside: Sequence[KnownHead]) -> int:
    """Up to where there is something to check: what is settled, and whatever the tree or a head says was there."""
    settled = await settled_end(session, schema)
    rows = await session.fetch(
        f"""select coalesce((select last_position from "{schema}".tree_chunks order by number desc limit 1), 0),
            coalesce((select position from "{schema}".heads order by size desc limit 1), 0)"""
    )
    return max(settled.position, *map(int, rows[0]), *(known.head.position for known in outside))


def page_of_log(schema: str) -> str:
    """The statement for a page of the log: after a position, up to another."""
    return f"""select {COLUMNS} from "{schema}".events
        where position > %s and position <= %s order by position limit {_PAGE}"""


def page_of_stream(schema: str) -> str:
    """The statement for a page of a stream: its id, after a version."""
    return f"""select {COLUMNS} from "{schema}".events
        where stream = %s and version > %s order by version limit {_PAGE}"""


async def _pages(session: Session, schema: str, after: int, end: int) -> AsyncGenerator[list[Any], None]:
    """The log from ``after`` to ``end``; while a page is looked at, the next one is on its way."""
    select = page_of_log(schema)
    coming = asyncio.create_task(session.fetch(select, (after, end)))
    try:
        while rows := await coming:
            coming = asyncio.create_task(session.fetch(select, (rows[-1][POSITION], end)))
            for _ in range(3):
                # Long enough that it is sent.
                await asyncio.sleep(0)
            yield rows
    finally:
        coming.cancel()
        with suppress(asyncio.CancelledError, LogError):
            await coming


async def _verify_stream(session: Session, schema: str, stream: UUID) -> AsyncIterator[Progress]:
    select = page_of_stream(schema)
    chain, events, last, version = ChainCheck(session, schema), 0, 0, 0
    while rows := await session.fetch(select, (stream, version)):
        version = rows[-1][VERSION]
        found = await chain.page(rows)
        fault = found.fault if found else None
        for row in rows[: found.row if found else len(rows)]:
            if row[POSITION] < last:
                fault = fault_at(row, f"version {row[VERSION] - 1} comes after it, at position {last}")
                break
            last, events = row[POSITION], events + 1
        yield Progress(events, 1, position=last, end=last, fault=fault)
        if fault:
            return

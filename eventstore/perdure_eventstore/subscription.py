"""Subscriptions: events from any position, in batches, to any number of consumers, each event exactly once.

    look at every part  --- nothing beyond its checkpoint ---> wait for the mark
        |
    take the row of one that nobody has, the furthest behind first    (FOR UPDATE SKIP LOCKED)
        |
    read a batch of settled events ---> the consumer writes ---> move the checkpoint ---> commit
                                             |
                                             +--- raises, or dies ---> nothing of it was done; the batch comes again

What a consumer writes through the connection it is given and the checkpoint are one transaction. A part is one
consumer's at a time, and a stream belongs to one part, so what happens in a stream arrives in order. The log is not
locked: whoever is slow holds up its own part and nothing else.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from psycopg import AsyncConnection
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection as SqlAlchemyConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.checkpoints import STRIDE, Checkpoints, Place, Taken, Transaction
from perdure_eventstore.database import borrow, connection_error, give_back
from perdure_eventstore.errors import LogError, LogUnavailable, SubscriptionRefused
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.feed import Feed, Following
from perdure_eventstore.parts import Part, redivide
from perdure_eventstore.patience import patiently
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session
from perdure_eventstore.terms import Terms, start_position
from perdure_eventstore.vault.errors import VaultError

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

CHECKPOINT_EVERY = 10_000
"""Positions: where a subscription's events are rare, a restart looks through no more than that for nothing."""

STAND_BY = 0.5
"""Seconds until one who found every part taken looks again: whoever has them may have died."""

_INTERVAL = 0.05
"""Seconds at least until then, however fast the mark moves."""

_FIRST_RETRY, _LAST_RETRY = 0.1, 30.0

Consume = Callable[[Sequence[RecordedEvent], SqlAlchemyConnection], Awaitable[None]]
"""Given a batch and the connection whose transaction commits with the checkpoint; it may not end that transaction."""

log = structlog.get_logger(__name__)


class Round(Enum):
    """What came of one round."""

    DONE = "a batch was consumed, or its place found empty; there may be more"
    IDLE = "nothing is left up to the mark, or what is left has failed and waits"
    BUSY = "other consumers have every part that holds something"
    FAILED = "the consumer raised; nothing of its batch was done"


class Subscription:
    """Hands settled events to consumers; ``feed`` is run by whoever made it.

    ``run`` may be called several times at once, here and in other processes: each is one consumer.
    """

    def __init__(
        self, engine: AsyncEngine, feed: Feed, terms: Terms, schema: str = "perdure", vault: "Vault | None" = None
    ) -> None:
        self.terms, self._vault = terms, vault
        self._engine, self._feed, self._schema = engine, feed, schema
        self._session = Session(engine)
        self._checkpoints = Checkpoints(terms.name, terms.types, schema)
        self._consumers = 0
        self._following = Following(feed)
        self._known: dict[int, _Known] = {}
        self._retries: dict[int, _Retry] = {}
        self._idle = f"set local idle_in_transaction_session_timeout = {max(1, round(terms.idle * 1000))}"

    async def run(self, consume: Consume) -> None:
        """Consume for ever; cancel to end. What ``consume`` raises rolls its batch back, to be tried again for ever.

        Raises SubscriptionRefused, and other LogErrors than LogUnavailable, which it rides out.
        """
        self._consumers += 1
        try:
            await self._feed.beyond(-1)
            while True:
                began = time.monotonic()
                once = partial(self._following.once, partial(self.run_once, consume))
                mark, round_ = await patiently(once, told=self._lost)
                await self._pause(round_, mark, began)
        finally:
            self._consumers -= 1
            if not self._consumers:
                await self._session.close()

    async def run_once(self, consume: Consume, mark: int) -> Round:
        """Consume at most one batch, up to the settled ``mark``. Raises LogError."""
        try:
            places = await self._look(mark)
            ready = sorted((p for p in places if p.next is not None and self._may_try(p.part)), key=_next)
            if ready:
                return await self._consume(consume, mark, ready)
        except LogError:
            # Another server, perhaps, which knows less: the checkpoints say where to go on.
            self._known.clear()
            raise
        waiting = any(place.next is None and place.searched < mark for place in places)
        return Round.DONE if waiting else Round.IDLE

    async def repartition(self) -> None:
        """Divide an existing subscription into as many parts as the terms say; nothing is repeated or passed over.

        Into a multiple of its parts, always; into another number when the parts that come together have read equally
        far, as they have once they read everything. Waits for batches under way. Raises SubscriptionRefused, LogError.
        """
        mark, parts = await self._feed.beyond(-1), self.terms.parts
        async with self._transaction() as (connection, source):
            await source.fetch(self._idle)
            positions = await self._checkpoints.lock(source)
            if len(positions) in (0, parts):
                return
            divided = redivide(positions, parts)
            if divided is None:
                reached = [
                    await self._reached(source, Part(number, len(positions)), position, mark)
                    for number, position in enumerate(positions)
                ]
                divided = redivide(reached, parts)
            if divided is None:
                raise SubscriptionRefused(_apart(self.terms.name, positions, parts))
            await self._checkpoints.divide(source, divided)
            await _commit(connection)
        log.info("subscription divided anew", subscription=self.terms.name, parts=parts, before=len(positions))

    async def _look(self, mark: int) -> list[Place]:
        known = {part: known.searched for part, known in self._known.items()}
        places = await self._checkpoints.look(self._session, mark, known)
        if not places:
            await self._checkpoints.begin(
                self._session, self.terms.parts, await start_position(self.terms.start, self._feed)
            )
            places = await self._checkpoints.look(self._session, mark, {})
        if (parts := len(places)) != self.terms.parts:
            raise SubscriptionRefused(
                f"subscription {self.terms.name!r} is divided into {parts} parts, and this consumer says "
                f"{self.terms.parts}; run it with parts={parts}, or divide the subscription anew (repartition)"
            )
        for place in places:
            before = self._known.get(place.part)
            if before is not None and place.position < before.position:
                # Somebody set the checkpoint back.
                self._known.clear()
                return await self._look(mark)
            retry = self._retries.get(place.part)
            if retry is not None and (place.next is None or place.next > retry.first):
                # Another consumer got past what failed here.
                del self._retries[place.part]
            searched = place.searched if place.next is None else place.next - 1
            self._known[place.part] = _Known(place.position, max(searched, place.position))
        await self._pass_over()
        return places

    async def _pass_over(self) -> None:
        """Save how far there is nothing, if that is much."""
        far = {
            part: known.searched
            for part, known in self._known.items()
            if known.searched - known.position >= CHECKPOINT_EVERY
        }
        if far:
            await self._checkpoints.pass_over(self._session, self.terms.parts, far)

    async def _consume(self, consume: Consume, mark: int, ready: Sequence[Place]) -> Round:
        terms = self.terms
        async with self._transaction() as (connection, source):
            # Before anything is locked: one that is frozen from here on loses its part.
            await source.fetch(self._idle)
            taken = await self._checkpoints.take(source, terms.parts, [place.part for place in ready])
            if taken is None:
                return Round.BUSY
            known = self._known.get(taken.part, _Known(0, 0))
            # Who had it just now may have come further than was seen.
            after = max(taken.position, known.searched if taken.position >= known.position else 0)
            last = min(mark, after + STRIDE)
            try:
                events = await self._read(source, Part(taken.part, terms.parts), after, last)
            except VaultError as error:
                # It holds up its own part, and nobody else's.
                self._failed(taken, after + 1, last, error)
                return Round.FAILED
            end = events[-1].position if len(events) == terms.batch else last
            wanted = [each for each in events if terms.match is None or terms.match(each)]
            if not wanted:
                self._known[taken.part] = _Known(taken.position, max(end, after))
                return Round.DONE
            try:
                await consume(wanted, connection)
                if source.ended or not connection.in_transaction():
                    raise LogError("the consumer ended its transaction, which commits with the checkpoint alone")
                await self._checkpoints.move(source, terms.parts, taken, end)
                await _commit(connection)
            except Exception as error:
                if source.lost:
                    raise LogUnavailable(f"the connection was lost under its consumer: {error}") from error
                self._failed(taken, wanted[0].position, wanted[-1].position, error)
                return Round.FAILED
        self._retries.pop(taken.part, None)
        return Round.DONE

    async def _read(self, source: Transaction, part: Part, after: int, last: int) -> list[RecordedEvent]:
        if after >= last:
            return []
        reader = Reader(source, self._schema, self._vault)
        return await reader.span(after, last, types=self.terms.types, part=part, limit=self.terms.batch)

    async def _reached(self, source: Transaction, part: Part, position: int, mark: int) -> int:
        """How far a part can be said to have come: up to right before the next event it wants."""
        while events := await self._read(source, part, position, mark):
            for each in events:
                if self.terms.match is None or self.terms.match(each):
                    return each.position - 1
            position = events[-1].position
        return max(position, mark)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[tuple[SqlAlchemyConnection, Transaction]]:
        """A connection in a transaction that is rolled back unless it is committed."""
        connection = await borrow(self._engine)
        try:
            raw = (await connection.get_raw_connection()).driver_connection
            assert isinstance(raw, AsyncConnection)
            event.listen(connection.sync_connection, "after_cursor_execute", _wind_up)
            yield connection, Transaction(raw)
        finally:
            await give_back(connection)

    def _may_try(self, part: int) -> bool:
        retry = self._retries.get(part)
        return retry is None or time.monotonic() >= retry.at

    def _failed(self, taken: Taken, first: int, last: int, error: Exception) -> None:
        before = self._retries.get(taken.part)
        pause = min(before.pause * 2, _LAST_RETRY) if before else _FIRST_RETRY
        self._retries[taken.part] = _Retry(time.monotonic() + pause, pause, first)
        log.error(
            "a consumer failed, its batch will be tried again",
            subscription=self.terms.name,
            part=taken.part,
            first=first,
            last=last,
            retry_in=pause,
            exc_info=error,
        )

    async def _pause(self, round_: Round, mark: int, began: float) -> None:
        """Wait until there is something to do."""
        if round_ in (Round.DONE, Round.FAILED):
            return
        now = time.monotonic()
        waits = [retry.at - now for retry in self._retries.values()]
        if round_ is Round.BUSY:
            waits.append(STAND_BY)
        with suppress(TimeoutError):
            async with asyncio.timeout(min(waits, default=None)):
                await self._feed.beyond(mark)
        if round_ is Round.BUSY:
            await asyncio.sleep(max(0.0, began + _INTERVAL - time.monotonic()))

    def _lost(self, error: BaseException, pause: float) -> None:
        log.warning("a subscription lost the log", subscription=self.terms.name, error=str(error), retry_in=pause)


class _Known(NamedTuple):
    """A part's checkpoint when it was last seen, and up to where it holds nothing."""

    position: int
    searched: int


class _Retry(NamedTuple):
    """When the batch of a part that begins at ``first`` is tried again (monotonic seconds), after which pause."""

    at: float
    pause: float
    first: int


def _next(place: Place) -> int:
    assert place.next is not None
    return place.next


def _wind_up(connection: Connection, _c: Any, _s: str, _p: Any, _x: Any, executemany: bool) -> None:
    """After many rows psycopg sends a Flush, which stops Postgres' clock for idle transactions; this starts it again.

    Or one who is frozen then would keep its part for as long as it is.
    """
    if executemany:
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute("select")


async def _commit(connection: SqlAlchemyConnection) -> None:
    try:
        await connection.commit()
    except DBAPIError as error:
        raise connection_error(error) from error


def _apart(name: str, positions: Sequence[int], parts: int) -> str:
    return (
        f"subscription {name!r} is divided into {len(positions)} parts, which have read differently far (positions "
        f"{min(positions)} to {max(positions)}): dividing it into {parts} would repeat or pass over events. Let its "
        f"consumers read everything there is with parts={len(positions)}, and divide then; a multiple of "
        f"{len(positions)} is possible at any time"
    )

"""Group commit: whatever waits to be appended in this process goes to the disk in one statement."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection
from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential_jitter,
)

from perdure_eventstore.append import Append, Appended, Batch, Statement, send
from perdure_eventstore.clock import Clock
from perdure_eventstore.errors import AppendRefused, Conflict, LogError, LogUnavailable, Raced, domain_error
from perdure_eventstore.events import Head
from perdure_eventstore.session import Session

MAX_EVENTS = 1_000
"""Events in one statement, unless a single append has more."""

HINT_INTERVAL = 0.005
"""Seconds between two notifications: at the rate of commits they would cost more than they save."""

Answer = Callable[[Appended | LogError], None]

log = structlog.get_logger(__name__)


class Appender:
    """Appends for everybody in this process, one statement at a time, all that waits in each.

    While a statement is at the disk the next batch gathers. Losing a race is told to the loser alone. When the
    connection breaks, nobody knows whether the batch was committed: the same batch is sent again, and what turns out
    to be there already, by its event ids, counts as appended.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        statement: Statement | None = None,
        *,
        patience: float = 10.0,
        schema: str = "perdure",
    ) -> None:
        """``patience`` is how many seconds an append waits for a database that cannot be reached."""
        self.clock = Clock()
        self._statement = statement or Statement(schema)
        self._patience = patience
        self._own = (
            f'select position, version, hash from "{schema}".events e where stream = %s and version >= %s '
            f'and exists (select from "{schema}".events f where f.stream = e.stream and f.version = %s and f.id = %s) '
            "order by version"
        )
        self._session = Session(engine)
        self._hint = f"select pg_notify('{schema}', '')"
        self._hinted_at = 0.0
        self._waiting: list[tuple[Append, Answer]] = []
        self._some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(self, append: Append, answer: Answer) -> None:
        """Append with the next batch; ``answer`` is called in the event loop with where it landed, or why not."""
        self._waiting.append((append, answer))
        self._some.set()
        self._idle.clear()

    async def append(self, append: Append) -> Appended:
        """Append and wait for the disk. Raises Conflict, LogUnavailable or another LogError."""
        done: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()

        def answer(result: Appended | LogError) -> None:
            if done.done():
                return
            if isinstance(result, LogError):
                done.set_exception(result)
            else:
                done.set_result(result)

        self.submit(append, answer)
        return await done

    async def drain(self) -> None:
        """Wait until nothing waits any more."""
        await self._idle.wait()

    async def run(self) -> None:
        """Append what is submitted, for ever; cancel to end. What still waits then is answered with an error."""
        entries: list[tuple[Append, Answer]] = []
        try:
            while True:
                await self._some.wait()
                self._some.clear()
                while entries := self._take():
                    await self._commit(entries)
                self._idle.set()
        finally:
            for _, answer in (*entries, *self._waiting):
                answer(LogUnavailable("the log was closed before this was known to be recorded"))
            self._waiting = []
            await self._session.close()

    def _take(self) -> list[tuple[Append, Answer]]:
        """The next batch: what waits, up to MAX_EVENTS."""
        count, size = 0, 0
        for append, _ in self._waiting:
            size += len(append.events)
            if count and size > MAX_EVENTS:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    async def _commit(self, entries: Sequence[tuple[Append, Answer]]) -> None:
        try:
            results: Sequence[Appended | LogError] = await self._append([append for append, _ in entries])
        except AppendRefused as error:
            if len(entries) > 1:
                # One of them is bad and the statement does not say which: the others shall not suffer.
                for entry in entries:
                    await self._commit([entry])
                return
            results = [error]
        except LogError as error:
            results = [error] * len(entries)
        for (_, answer), result in zip(entries, results, strict=True):
            answer(result)
        if any(append.announce for append, _ in entries):
            await self._announce()

    async def _announce(self) -> None:
        """Hint to other processes that there is more: coalesced, throttled, and nobody's only way to know."""
        now = time.monotonic()
        if now - self._hinted_at >= HINT_INTERVAL:
            self._hinted_at = now
            try:
                await self._session.fetch(self._hint)
            except LogError as error:
                log.debug("hint not sent", error=str(error))

    async def _append(self, appends: Sequence[Append]) -> list[Appended | LogError]:
        """Send until the outcome is known. Raises LogUnavailable when patience runs out, or what the log refused."""
        batch, broken = Batch(appends), 0
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type((LogUnavailable, Raced)),
            wait=wait_exponential_jitter(initial=0.02, max=1.0, jitter=0.05),
            stop=stop_after_delay(self._patience),
            reraise=True,
        ):
            with attempt:
                try:
                    connection = await self._session.connection()
                    answers = await send(connection, self._statement, batch, self.clock)
                    return [
                        answer or await self._loser(connection, batch, i, may_be_ours=broken > 0)
                        for i, answer in enumerate(answers)
                    ]
                except LogUnavailable as error:
                    broken += 1
                    if broken == 1:
                        log.warning("log unreachable, trying again", error=str(error), appends=len(appends))
                    await self._session.close()
                    raise
        raise AssertionError("unreachable")

    async def _loser(
        self, connection: AsyncConnection[Any], batch: Batch, index: int, *, may_be_ours: bool
    ) -> Appended | LogError:
        """What to tell an append that came too late: after a broken connection it may have met itself."""
        append = batch.appends[index]
        if may_be_ours:
            first = (append.stream, append.expected.version + 1)
            try:
                row = await (
                    await connection.execute(self._own, (*first, first[1], UUID(bytes=batch.first_ids[index])))
                ).fetchall()
            except psycopg.Error as error:
                raise domain_error(error) from error
            if row:
                count = len(append.events)
                return Appended(Head(row[count - 1][1], row[count - 1][2]), [position for position, *_ in row[:count]])
        return Conflict(append.stream, append.expected.version)

"""Group commit: whatever waits to be appended in this process goes to the disk together."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.append import Append, Appended, Statement
from perdure_eventstore.clock import Clock
from perdure_eventstore.errors import LogError, LogUnavailable
from perdure_eventstore.lane import Lane
from perdure_eventstore.session import Session

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

MAX_EVENTS = 1_000
"""Events in one statement, unless a single append has more."""

MAX_BYTES = 64 * 1024 * 1024
"""Bytes of payload in one statement, unless a single append has more: Postgres takes no message over 1 GiB."""

LANES = 2
"""Statements under way at once: while one is at the disk, what comes of the other is decided and packed."""

HINT_INTERVAL = 0.005
"""Seconds between two notifications: at the rate of commits they would cost more than they save."""

Answer = Callable[[Appended | LogError], None]

log = structlog.get_logger(__name__)


class Appender:
    """Appends for everybody in this process, all that waits in one statement.

    Losing a race is told to the loser alone. Appends to one stream must follow one another; those to different
    streams may land in any order.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        statement: Statement | None = None,
        *,
        patience: float = 10.0,
        schema: str = "perdure",
        vault: "Vault | None" = None,
    ) -> None:
        """``patience`` is how many seconds an append waits for a database that cannot be reached.

        With a ``vault``, payloads are encrypted, but for those of appends ``in_the_clear``.
        """
        self.clock = Clock()
        statement = statement or Statement(schema)
        self._lanes = [Lane(engine, statement, self.clock, schema, patience, vault) for _ in range(LANES)]
        self._hints = Session(engine)
        self._hint = f"select pg_notify('{schema}', '')"
        self._waiting: list[tuple[Append, Answer]] = []
        self._some, self._announced = asyncio.Event(), asyncio.Event()
        self._submitted = self._answered = 0
        self._drains: list[tuple[int, asyncio.Future[None]]] = []
        self._closed = False

    def submit(self, append: Append, answer: Answer) -> None:
        """Append with the next batch; ``answer`` is called in the event loop with where it landed, or why not."""
        if self._closed:
            answer(LogUnavailable("the log was closed before this was recorded"))
            return
        self._waiting.append((append, answer))
        self._submitted += 1
        self._some.set()

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
        """Wait until as many appends are answered as were submitted before this; what comes later does not count."""
        if self._answered < self._submitted and not self._closed:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._drains.append((self._submitted, done))
            await done

    async def run(self) -> None:
        """Append what is submitted, for ever; cancel to end. What still waits then is answered with an error."""
        try:
            async with asyncio.TaskGroup() as group:
                for lane in self._lanes:
                    group.create_task(self._serve(lane))
                group.create_task(self._announce())
        finally:
            self._closed = True
            waiting, self._waiting = self._waiting, []
            for _, answer in waiting:
                self._tell(answer, LogUnavailable("the log was closed before this was recorded"))
            for _, done in self._drains:
                if not done.done():
                    done.set_result(None)

    async def _serve(self, lane: Lane) -> None:
        entries: list[tuple[Append, Answer]] = []
        try:
            while True:
                await self._some.wait()
                entries = self._take()
                if not entries:
                    continue
                results = await lane.commit([append for append, _ in entries])
                answered, entries = entries, []
                for (append, answer), result in zip(answered, results, strict=True):
                    if append.announce:
                        self._announced.set()
                    self._tell(answer, result)
        finally:
            for _, answer in entries:
                self._tell(answer, LogUnavailable("the log was closed before this was known to be recorded"))
            await lane.close()

    def _tell(self, answer: Answer, result: Appended | LogError) -> None:
        try:
            answer(result)
        except Exception:
            # One who cannot take the answer shall not keep the others from theirs.
            log.exception("the answer to an append was not taken")
        self._answered += 1
        while self._drains and self._drains[0][0] <= self._answered:
            done = self._drains.pop(0)[1]
            if not done.done():
                done.set_result(None)

    def _take(self) -> list[tuple[Append, Answer]]:
        """The next batch: what waits, up to MAX_EVENTS and MAX_BYTES."""
        count, events, size = 0, 0, 0
        for append, _ in self._waiting:
            events += len(append.events)
            size += sum(len(event.payload) for event in append.events if event.payload is not None)
            if count and (events > MAX_EVENTS or size > MAX_BYTES):
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        if not self._waiting:
            self._some.clear()
        return taken

    async def _announce(self) -> None:
        """Hint to other processes that there is more: coalesced, throttled, and nobody's only way to know."""
        try:
            while True:
                await self._announced.wait()
                self._announced.clear()
                try:
                    await self._hints.fetch(self._hint)
                except LogError as error:
                    log.debug("hint not sent", error=str(error))
                await asyncio.sleep(HINT_INTERVAL)
        finally:
            await self._hints.close()

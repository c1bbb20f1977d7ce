"""Group commit: whatever waits to be appended in this process goes to the disk together."""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.append import Append, Appended, Entry, Statement, Together
from perdure_eventstore.clock import Clock
from perdure_eventstore.errors import LogError, LogUnavailable
from perdure_eventstore.lane import Lane
from perdure_eventstore.session import Session

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

MAX_EVENTS = 1_000
"""Events in one statement, unless a single append has more."""

MAX_BYTES = 64 * 1024 * 1024
"""Bytes in one statement, unless a single append has more: Postgres takes no message over 1 GiB."""

LANES = 2
"""Statements under way at once: while one is at the disk, what comes of the other is decided and packed."""

HINT_INTERVAL = 0.005
"""Seconds between two notifications: at the rate of commits they would cost more than they save."""

MOST_WAITING = 64 * MAX_EVENTS
MOST_WAITING_BYTES = 4 * MAX_BYTES
"""What may wait in memory before ``append`` holds its callers back."""

Tell = Callable[[Any], None]
"""Takes an answer: Appended, a list of them for several appends together, or a LogError."""


class _Waiting(msgspec.Struct, frozen=True):
    """An entry in the queue, with its events and its bytes."""

    entry: Entry
    tell: Tell
    events: int
    bytes: int


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
        share_from: int | None = None,
    ) -> None:
        """``patience`` is how many seconds an append waits for a database that cannot be reached.

        From ``share_from`` waiting entries on, lanes that are free share them; without it the first takes them all. It
        pays where much is to be decided between two appends: what goes to the disk at once comes back at once.

        With a ``vault``, payloads are encrypted, but for those of appends ``in_the_clear``.
        """
        self.clock = Clock()
        statement = statement or Statement(schema)
        self._lanes = [Lane(engine, statement, self.clock, schema, patience, vault) for _ in range(LANES)]
        self._hints = Session(engine)
        self._hint = f"select pg_notify('{schema}', '')"
        self._queue: list[_Waiting] = []
        self._events = self._bytes = 0
        self._some, self._room, self._announced = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._submitted = self._answered = 0
        self._drains: list[tuple[int, asyncio.Future[None]]] = []
        self._closed = False
        self._share_from, self._idle = share_from, LANES
        """Lanes with nothing under way."""

    def submit(self, entry: Entry, tell: Tell) -> None:
        """Append with the next batch; ``tell`` is called in the event loop with where it landed, or why not.

        Never waits: who submits keeps count of what is not answered yet.
        """
        if self._closed:
            tell(LogUnavailable("the log was closed before this was recorded"))
            return
        waiting = _measured(entry, tell)
        self._queue.append(waiting)
        self._events += waiting.events
        self._bytes += waiting.bytes
        self._submitted += 1
        self._some.set()

    async def append(self, append: Append) -> Appended:
        """Append and wait for the disk; while too much waits already, wait before that.

        Raises Conflict, LogUnavailable or another LogError.
        """
        appended: Appended = await self._answer(append)
        return appended

    async def append_together(self, appends: Sequence[Append]) -> list[Appended]:
        """Append to several streams, all or none. Raises Conflict for the first whose stream had moved on."""
        appended: list[Appended] = await self._answer(Together(tuple(appends)))
        return appended

    async def _answer(self, entry: Entry) -> Any:
        while self._events >= MOST_WAITING or self._bytes >= MOST_WAITING_BYTES:
            self._room.clear()
            await self._room.wait()
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def tell(answer: Any) -> None:
            if done.done():
                return
            if isinstance(answer, LogError):
                done.set_exception(answer)
            else:
                done.set_result(answer)

        self.submit(entry, tell)
        return await done

    @property
    def waiting(self) -> int:
        """Events that wait in memory for the next statement."""
        return self._events

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
            for waiting in self._take(everything=True):
                self._tell(waiting.tell, LogUnavailable("the log was closed before this was recorded"))
            for _, done in self._drains:
                if not done.done():
                    done.set_result(None)

    async def _serve(self, lane: Lane) -> None:
        batch: list[_Waiting] = []
        try:
            while True:
                await self._some.wait()
                batch = self._take()
                if not batch:
                    continue
                self._idle -= 1
                try:
                    answers = await lane.commit([waiting.entry for waiting in batch])
                finally:
                    self._idle += 1
                answered, batch = batch, []
                for waiting, answer in zip(answered, answers, strict=True):
                    if waiting.entry.announce:
                        self._announced.set()
                    self._tell(waiting.tell, answer)
        finally:
            for waiting in batch:
                self._tell(waiting.tell, LogUnavailable("the log was closed before this was known to be recorded"))
            await lane.close()

    def _tell(self, tell: Tell, answer: Any) -> None:
        try:
            tell(answer)
        except Exception:
            # One who cannot take the answer shall not keep the others from theirs.
            log.exception("the answer to an append was not taken")
        self._answered += 1
        while self._drains and self._drains[0][0] <= self._answered:
            done = self._drains.pop(0)[1]
            if not done.done():
                done.set_result(None)

    def _take(self, *, everything: bool = False) -> list[_Waiting]:
        """The next batch: what waits, or a free lane's share of it, up to MAX_EVENTS and MAX_BYTES."""
        count, events, size = 0, 0, 0
        most = len(self._queue)
        if self._share_from is not None and most >= self._share_from and not everything:
            most = math.ceil(most / self._idle)
        for waiting in self._queue[:most]:
            if count and not everything and (events + waiting.events > MAX_EVENTS or size + waiting.bytes > MAX_BYTES):
                break
            count, events, size = count + 1, events + waiting.events, size + waiting.bytes
        taken, self._queue = self._queue[:count], self._queue[count:]
        self._events, self._bytes = self._events - events, self._bytes - size
        if not self._queue:
            self._some.clear()
        self._room.set()
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


def _measured(entry: Entry, tell: Tell) -> _Waiting:
    appends = entry.appends if isinstance(entry, Together) else (entry,)
    events = size = 0
    for append in appends:
        events += len(append.events)
        for event in append.events:
            size += len(event.data) if event.payload is None else len(event.data) + len(event.payload)
    return _Waiting(entry, tell, events, size)

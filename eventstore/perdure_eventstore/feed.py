"""One poller and one listener a process: the settled mark moves, and whoever waits for more of the log is woken."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.errors import LogError
from perdure_eventstore.listen import listen
from perdure_eventstore.patience import patiently
from perdure_eventstore.session import Session
from perdure_eventstore.settled import SettledMark

T = TypeVar("T")

log = structlog.get_logger(__name__)

_PENDING_POLL = 0.002
_SETTLE = 0.02
_OWN = 0.1
"""Seconds within which one's own appends are looked at, if nobody waits: each look has readers of the log work."""
_MOST_POLL = 0.1
"""Seconds between two looks for somebody's commit that does not come: a transaction may stay open for long."""


class Feed:
    """``await feed.beyond(position)`` returns the mark as soon as it is higher.

    A hint (``hint``, from a notification) makes it look at once, one that is not ``urgent`` (from one's own append)
    within 100 ms, so that a busy node looks now and then and not at every commit. Without any it looks every
    ``interval`` seconds, so a lost hint costs a delay and nothing else.

    While somebody who wrote has not committed it looks after 20 ms, then twice as long each time, up to a tenth of a
    second; if somebody waits, once more at once, and then after 2 ms.
    """

    def __init__(self, engine: AsyncEngine, schema: str = "perdure", interval: float = 1.0) -> None:
        self.mark = -1
        """-1 until it was looked at for the first time."""
        self.listeners: list[Callable[[str], None]] = []
        """Told when another process announced something, or may have, and what: no text says nothing."""
        self._engine = engine
        self._session = Session(engine)
        self._schema = schema
        self._interval = interval
        self._hinted, self._urgent = asyncio.Event(), asyncio.Event()
        self._moved = asyncio.Event()
        self._hurry = False
        self._poll = _SETTLE
        self._looking: SettledMark | None = None
        self._fresh = False
        self._begun = self._seen = self._lowered = 0
        self._looked = asyncio.Event()

    def hint(self, *, urgent: bool = True) -> None:
        """Something was appended; ``urgent``: somebody waits for it."""
        self._hinted.set()
        if urgent:
            self._urgent.set()

    async def beyond(self, position: int) -> int:
        """Wait until the mark is higher than ``position``, and return it.

        Or lower than it was: on a server that knows less of the log, whoever waits is to look where it stands.
        """
        lowered = self._lowered
        while self.mark <= position and self._lowered == lowered:
            await self._moved.wait()
        return self.mark

    async def anew(self) -> int:
        """The mark by a look that begins from now on.

        For who lost the log: it may be another server by now, which knows less of it than the one before.
        """
        wanted = self._begun + 1
        self.hint()
        while self._seen < wanted:
            await self._looked.wait()
        return self.mark

    async def run(self) -> None:
        """Look, and take in what other processes announce, for ever; cancel to end."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look())
            group.create_task(listen(self._engine, self._schema, self._heard))

    def _heard(self, text: str) -> None:
        self.hint()
        for told in self.listeners:
            told(text)

    async def _look(self) -> None:
        try:
            while True:
                mark = await patiently(self._look_once, LogError, told=_lost)
                await self._pause(mark)
        finally:
            await self._session.close()

    async def _look_once(self) -> SettledMark:
        """Look, with a mark that was checked since the log was last lost."""
        mark, self._looking = self._looking, None
        if mark is None:
            mark = SettledMark(self._session, self._schema)
            await mark.check()
            self._fresh = True
        await self.run_once(mark)
        self._looking = mark
        return mark

    async def run_once(self, mark: SettledMark) -> None:
        """Look once."""
        hurried, urgent = self._hurry and mark.pending, self._urgent.is_set()
        self._hurry = urgent or hurried
        self._hinted.clear()
        self._urgent.clear()
        before = mark.position
        self._begun = look = self._begun + 1
        position = await mark.advance()
        if self._hurry > hurried:
            self._poll = 0.0
        elif position > before:
            self._poll = _PENDING_POLL if self._hurry else _SETTLE
        # At first, 0 may only mean that somebody has not committed yet.
        if position or not mark.pending:
            if self._fresh and position < self.mark:
                log.warning(
                    "the log ends before what was read of it: another server?", position=position, read=self.mark
                )
                self._lowered += 1
            if position > self.mark or self._fresh:
                self.mark = position
                moved, self._moved = self._moved, asyncio.Event()
                moved.set()
            self._fresh = False
            self._seen = look
            looked, self._looked = self._looked, asyncio.Event()
            looked.set()

    async def _pause(self, mark: SettledMark) -> None:
        if mark.pending:
            pause, self._poll = self._poll, min(max(self._poll * 2, _PENDING_POLL), _MOST_POLL)
            if self._hurry:
                # Looking takes about as long as a commit: the first time that is pause enough.
                await asyncio.sleep(pause)
            else:
                await _wait(self._urgent, pause)
            return
        self._poll = _SETTLE
        await _wait(self._hinted, self._interval)
        await _wait(self._urgent, _OWN)


class Following:
    """Work up to the mark, again and again; after the log was lost, up to a mark that was looked up since."""

    def __init__(self, feed: Feed) -> None:
        self._feed, self._was_lost = feed, False

    async def once(self, work: Callable[[int], Awaitable[T]]) -> tuple[int, T]:
        """Call ``work`` with the mark; the two. Raises what ``work`` does."""
        lost, self._was_lost = self._was_lost, False
        mark = await self._feed.anew() if lost else self._feed.mark
        try:
            return mark, await work(mark)
        except LogError:
            self._was_lost = True
            raise


async def _wait(for_: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await for_.wait()


def _lost(error: BaseException, pause: float) -> None:
    log.warning("feed lost the log", error=str(error), retry_in=pause)

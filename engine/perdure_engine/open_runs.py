"""Who waits for runs that other processes execute: all who wait in this process ask together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar
from uuid import UUID

from perdure_eventstore.errors import LogUnavailable
from perdure_eventstore.session import Session

Answer = TypeVar("Answer")

_FIRST, _LAST, _GROWTH = 0.002, 0.25, 1.3
"""Seconds between two looks for one run: about a quarter of the time it has been waited for."""

_TOGETHER = 0.002
"""Seconds in which those who ask come together."""

_MOST = 100
"""Who are asked for at once; the others are next."""


class AskedTogether(Generic[Answer]):
    """Asks once for all who ask within a moment, and for those who come meanwhile when that is answered."""

    def __init__(self, ask: Callable[[Sequence[UUID]], Awaitable[Answer]]) -> None:
        self._ask = ask
        self._asked: set[UUID] = set()
        self._next: asyncio.Task[Answer] | None = None
        """Who comes now is asked for by it."""
        self._asking: set[asyncio.Task[Answer]] = set()
        self._turn = asyncio.Lock()

    async def __call__(self, run: UUID) -> Answer:
        """The answer to a question that had ``run`` in it. Raises what asking raises, LogUnavailable once closed."""
        if self._next is None or len(self._asked) >= _MOST:
            self._asked = set()
            self._next = asyncio.create_task(self._together(self._asked))
            self._asking.add(self._next)
            self._next.add_done_callback(self._asking.discard)
        self._asked.add(run)
        asking = self._next
        # Whoever waits no more leaves the answer to the others.
        await asyncio.wait([asking])
        if asking.cancelled():
            raise LogUnavailable("the connection was closed before the log was asked")
        return asking.result()

    async def close(self) -> None:
        """Ask no more."""
        for asking in list(self._asking):
            asking.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def _together(self, asked: set[UUID]) -> Answer:
        async with self._turn:
            await asyncio.sleep(_TOGETHER)
            if self._asked is asked:
                self._next = None
            return await self._ask(list(asked))


class OpenRuns:
    """The runs that have not ended, as the working set has them."""

    def __init__(self, session: Session, schema: str) -> None:
        self._session = session
        self._select = f'select run from "{schema}".open_runs where run = any(%s)'
        self._among = AskedTogether(self._open)

    async def until_closed(self, run: UUID, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Return once ``run`` is not open: it has ended, or was never started. Raises LogError.

        ``sleep`` waits between two looks for so many seconds, or until there is something to see.
        """
        pause = _FIRST
        while run in await self._among(run):
            await sleep(pause)
            pause = min(pause * _GROWTH, _LAST)

    async def close(self) -> None:
        """Look no more."""
        await self._among.close()

    async def _open(self, runs: Sequence[UUID]) -> set[UUID]:
        return {run for (run,) in await self._session.fetch(self._select, (runs,))}

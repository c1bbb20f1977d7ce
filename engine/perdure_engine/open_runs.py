"""Who waits for runs that other processes execute: all who wait in this process look together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar
from uuid import UUID

from perdure_eventstore.session import Session

Answer = TypeVar("Answer")

_FIRST, _LAST, _GROWTH = 0.002, 0.25, 1.3
"""Seconds between two looks for one run: about a quarter of the time it has been waited for."""

_TOGETHER = 0.002
"""Seconds in which those who ask come together."""


class AskedTogether(Generic[Answer]):
    """Asks once for all who ask within a moment, and for those who come meanwhile when that is answered."""

    def __init__(self, ask: Callable[[Sequence[UUID]], Awaitable[Answer]]) -> None:
        self._ask = ask
        self._asked: set[UUID] = set()
        self._asking: asyncio.Task[Answer] | None = None
        self._turn = asyncio.Lock()

    async def __call__(self, run: UUID) -> Answer:
        """The answer to a question that had ``run`` in it. Raises what asking raises."""
        self._asked.add(run)
        if self._asking is None:
            self._asking = asyncio.create_task(self._together())
        # Whoever waits no more leaves the answer to the others.
        return await asyncio.shield(self._asking)

    async def _together(self) -> Answer:
        async with self._turn:
            await asyncio.sleep(_TOGETHER)
            asked, self._asked, self._asking = self._asked, set(), None
            return await self._ask(list(asked))


class OpenRuns:
    """The runs that have not ended, as the working set has them."""

    def __init__(self, session: Session, schema: str) -> None:
        self._session = session
        self._select = f'select run from "{schema}".open_runs where run = any(%s)'
        self._among = AskedTogether(self._open)

    async def closed(self, run: UUID, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Return once ``run`` is not open: it has ended, or was never started. Raises LogError.

        ``sleep`` waits between two looks for so many seconds, or until there is something to see.
        """
        pause = _FIRST
        while run in await self._among(run):
            await sleep(pause)
            pause = min(pause * _GROWTH, _LAST)

    async def _open(self, runs: Sequence[UUID]) -> set[UUID]:
        return {run for (run,) in await self._session.fetch(self._select, (runs,))}

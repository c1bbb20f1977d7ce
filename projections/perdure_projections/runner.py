"""Keeps projections up with the log, in the background: nobody who appends waits for it."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import psycopg
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.errors import LogError, domain_error
from perdure_eventstore.feed import Feed, Following
from perdure_eventstore.patience import patiently
from perdure_eventstore.session import Session
from perdure_projections.checkpoint import Checkpoints
from perdure_projections.folding import Step, step
from perdure_projections.projection import Projection

_SHORTEST, _LONGEST = 0.1, 0.5
_SHARE = 20
"""A round that folds less than a batch is followed by one after this many times what it took, within those seconds.

Under load, rounds fold more instead of coming more often.
"""

STAND_BY = 0.5
"""Seconds between two rounds of a runner that finds nothing left to fold, because another one is at it."""

_FIRST_RETRY, _LAST_RETRY = 1.0, 60.0
_CATCH_UP_POLL = 0.02

log = structlog.get_logger(__name__)


class ProjectionRunner:
    """Folds ``projections`` as the mark of ``feed`` moves; ``feed`` is run by whoever made it.

    Any number of runners may work on one database: each projection is folded by one at a time.
    """

    def __init__(self, engine: AsyncEngine, feed: Feed, schema: str, projections: Sequence[Projection]) -> None:
        self._feed = feed
        self._projections = projections
        self._session = Session(engine)
        self._checkpoints = Checkpoints(schema)
        self._prepared = 0
        # A transaction of several statements: ``run`` and ``catch_up`` take turns on the connection.
        self._turn = asyncio.Lock()
        self._retries: dict[str, _Retry] = {}
        self._following = Following(feed)

    async def run(self) -> None:
        """Fold for ever; cancel to end."""
        try:
            while True:
                round_ = await patiently(self._round, LogError, first=_SHORTEST, most=_LAST_RETRY, told=_lost)
                if Step.MORE not in round_.steps:
                    await self._pause(round_)
        finally:
            await self.close()

    async def run_once(self, mark: int) -> list[Step]:
        """Fold at most one batch of each projection up to the settled ``mark``. Raises LogError."""
        async with self._turn:
            await self._prepare()
            return [await self._step(projection, mark) for projection in self._projections]

    async def catch_up(self, mark: int) -> list[str]:
        """Wait until every projection has folded up to ``mark``, folding where nobody else does; the feed must run.

        Returns the names of those that will not get there: stopped by an event, or left to a higher version.
        Raises LogError.
        """
        await self._feed.beyond(mark - 1)
        while True:
            steps = await self.run_once(mark)
            if Step.MORE in steps:
                continue
            if Step.BUSY not in steps:
                return await self._short_of(mark)
            await asyncio.sleep(_CATCH_UP_POLL)

    async def close(self) -> None:
        """Give the connection up; the next use opens another."""
        await self._session.close()

    async def _round(self) -> "_Round":
        begun = time.monotonic()
        mark, steps = await self._following.once(self.run_once)
        return _Round(begun, time.monotonic() - begun, mark, steps)

    async def _prepare(self) -> None:
        connection = await self._session.connection()
        if self._prepared == self._session.opened:
            return
        try:
            await self._checkpoints.enter(connection)
            await self._checkpoints.declare(connection, self._projections)
        except psycopg.Error as error:
            raise domain_error(error) from error
        self._prepared = self._session.opened

    async def _short_of(self, mark: int) -> list[str]:
        async with self._turn:
            connection = await self._session.connection()
            try:
                positions = await self._checkpoints.positions(connection)
            except psycopg.Error as error:
                raise domain_error(error) from error
        return [p.name for p in self._projections if positions[p.name] < mark]

    async def _step(self, projection: Projection, mark: int) -> Step:
        """One step, unless the projection has stopped and it is too early to try again."""
        retry = self._retries.get(projection.name)
        if retry and time.monotonic() < retry.at:
            return Step.STOPPED
        result = await step(self._session, self._checkpoints, projection, mark)
        if result is Step.STOPPED:
            pause = min(retry.pause * 2, _LAST_RETRY) if retry else _FIRST_RETRY
            self._retries[projection.name] = _Retry(time.monotonic() + pause, pause)
        elif result is not Step.BUSY:
            self._retries.pop(projection.name, None)
        return result

    async def _pause(self, round_: "_Round") -> None:
        """Sleep until there is something to do, and keep the distance to the round that was."""
        begun, took, mark, steps = round_
        waits = [retry.at - time.monotonic() for retry in self._retries.values()]
        if Step.BUSY in steps:
            # Whoever has it may die before it has folded the rest.
            waits.append(STAND_BY)
        with suppress(TimeoutError):
            async with asyncio.timeout(min(waits, default=None)):
                await self._feed.beyond(mark)
        distance = min(max(_SHORTEST, _SHARE * took), _LONGEST) if Step.DONE in steps else STAND_BY
        await asyncio.sleep(max(0.0, begun + distance - time.monotonic()))


class _Round(NamedTuple):
    """When a round began (monotonic seconds), what it took, up to where it could fold, and each projection's step."""

    begun: float
    took: float
    mark: int
    steps: list[Step]


class _Retry(NamedTuple):
    """When a stopped projection is tried again (monotonic seconds), and the pause that led there."""

    at: float
    pause: float


def _lost(error: BaseException, pause: float) -> None:
    log.warning("projections lost the log", error=str(error), retry_in=pause)

"""Keeps projections up with the log, in the background: nobody who appends waits for it."""

import asyncio
import time
from collections.abc import Sequence

import structlog
from perdure_eventstore.errors import LogError, domain_error
from perdure_eventstore.feed import Feed
from perdure_eventstore.session import Session
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_projections.checkpoint import Checkpoints
from perdure_projections.folding import Step, step
from perdure_projections.projection import Projection

INTERVAL = 0.05
"""Seconds between two rounds that fold less than a batch: under load, rounds fold more instead of coming more often."""

_OTHERS = 1.0
"""Seconds until a projection that another runner has is looked at again: that runner may have died."""

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
        self._declared_on = 0
        # A transaction of several statements: ``run`` and ``catch_up`` take turns on the connection.
        self._turn = asyncio.Lock()
        self._retries: dict[str, _Retry] = {}

    async def run(self) -> None:
        """Fold for ever; cancel to end."""
        backoff = INTERVAL
        try:
            while True:
                begun, mark = time.monotonic(), self._feed.mark
                try:
                    steps = await self.run_once(mark)
                    backoff = INTERVAL
                    if Step.MORE not in steps:
                        await self._pause(begun, mark, steps)
                except LogError as error:
                    log.warning("projections lost the log", error=str(error), retry_in=backoff)
                    await asyncio.sleep(backoff)
                    backoff = min(backoff * 2, _LAST_RETRY)
        finally:
            await self.close()

    async def run_once(self, mark: int) -> list[Step]:
        """Fold at most one batch of each projection up to the settled ``mark``. Raises LogError."""
        async with self._turn:
            await self._declare()
            return [await self._step(projection, mark) for projection in self._projections]

    async def catch_up(self, mark: int) -> list[str]:
        """Wait until every projection has folded up to ``mark``, folding where nobody else does; the feed must run.

        Returns the names of those that have stopped before it. Raises LogError.
        """
        await self._feed.beyond(mark - 1)
        while True:
            steps = await self.run_once(mark)
            if Step.MORE in steps:
                continue
            places = await self._places()
            short = [name for name, place in places.items() if place.position < mark]
            if all(places[name].stopped for name in short):
                return sorted(short)
            await asyncio.sleep(_CATCH_UP_POLL)

    async def close(self) -> None:
        """Give the connection up; the next use opens another."""
        await self._session.close()

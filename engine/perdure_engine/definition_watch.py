"""Lets a registry remember the active definitions: whenever some come or go in the log, it is told to forget them."""

import asyncio

from perdure_engine.registry import Registry
from perdure_eventstore.feed import Feed
from perdure_eventstore.patience import patiently
from perdure_eventstore.read import Reader

_TYPES = ("DefinitionRegistered", "DefinitionRetired")

_INTERVAL = 0.25
"""Seconds between two looks at a log that grows; one that does not is not looked at."""


class DefinitionWatch:
    """Follows the settled log for ``registry``; ``feed`` is run by whoever made it.

    What another process registers or retires is known here a look later. While the log cannot be reached, and when
    nobody follows it any more, the registry remembers nothing and asks the database each time.
    """

    def __init__(self, registry: Registry, reader: Reader, feed: Feed) -> None:
        self._registry, self._reader, self._feed = registry, reader, feed
        self._position = -1

    async def run(self) -> None:
        """Follow for ever; cancel to end."""
        await patiently(self._follow)

    async def run_once(self, mark: int) -> None:
        """Look at what is settled up to ``mark``. Raises LogError."""
        if await self._reader.span(self._position, mark, types=_TYPES, limit=1):
            self._registry.forget_active()
        self._position = mark

    async def _follow(self) -> None:
        # The position first: what is asked after that sees everything before it.
        self._position = await self._feed.beyond(-1)
        self._registry.remember_active()
        try:
            while True:
                await self.run_once(await self._feed.beyond(self._position))
                await asyncio.sleep(_INTERVAL)
        finally:
            self._registry.remember_active(False)

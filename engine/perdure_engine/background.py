"""Tasks that run beside the application and end with it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import structlog

from perdure_eventstore.errors import FenceLost

log = structlog.get_logger(__name__)

_PAUSE = 1.0


class Background:
    """Spawn into it; ``close``, or leaving ``async with``, cancels what still runs, the latest first."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[Any]] = []

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run ``work`` beside. An error that ends it is logged; FenceLost is an ordinary end of a node's work."""
        task = asyncio.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel what still runs, and wait for its end."""
        for task in reversed(list(self._tasks)):
            task.cancel()
            await asyncio.wait([task])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.remove(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, FenceLost):
                return
            log.error("part of the application ended", exc_info=error)


async def endlessly(work: Callable[[], Awaitable[None]]) -> None:
    """Do ``work``, which has no end of its own, again when an error ends it: those who wait for it go on waiting."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("part of the application broke off, it begins anew", part=work.__qualname__)
        await asyncio.sleep(_PAUSE)

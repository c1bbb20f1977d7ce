"""The node: leases shards, holds their open runs, and executes their tasks.

``Node`` lives through one or more tenures. A tenure is a time under one identity and epoch: the node joins, leases
shards, resumes their open runs, and works until it is stopped or fenced off. Who is fenced off forgets everything and
joins anew under another identity.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
from anyio import to_thread
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_engine.task_types import TaskTypes
from perdure_engine.tenure import Settings, Tenure
from perdure_eventstore.errors import FenceLost, LogUnavailable
from perdure_eventstore.feed import Feed

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

log = structlog.get_logger(__name__)

_JOIN_AGAIN = 1.0


class Node:
    """A running engine: ``async with node.running():`` works until the block ends."""

    def __init__(
        self, engine: AsyncEngine, types: TaskTypes, settings: Settings, feed: Feed, vault: "Vault | None" = None
    ) -> None:
        """``feed`` is run by whoever made it, for longer than the node."""
        self._engine, self._types, self._settings, self._feed = engine, types, settings, feed
        self._vault = vault
        self.tenure: Tenure | None = None
        """The present one; None between two."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work in the background; leaves when the first leases are held, and stops cleanly at the end.

        Raises LogError if the log cannot be reached at the start.
        """
        # Synchronous handlers take a thread each: their number is the node's limit, not the library's default.
        threads = to_thread.current_default_thread_limiter()
        threads.total_tokens = max(threads.total_tokens, self._settings.concurrency)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stopping = asyncio.Event()
        work = asyncio.create_task(self._work(ready, stopping))
        try:
            await asyncio.wait([ready, work], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            yield
        finally:
            stopping.set()
            try:
                await work
            finally:
                self._types.close()

    async def _work(self, ready: "asyncio.Future[None]", stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            tenure = Tenure(self._engine, self._types, self._settings, self._feed, self._vault)
            try:
                async with tenure:
                    self.tenure = tenure
                    if not ready.done():
                        ready.set_result(None)
                    await tenure.work(stopping)
            except FenceLost as error:
                log.warning("this node was taken for dead, joining anew", reason=str(error))
            except Exception as error:
                if not ready.done():
                    raise
                if isinstance(error, LogUnavailable):
                    # As it joined anew: once it works, a lost log is waited for.
                    log.warning("the log cannot be reached, joining when it can", error=str(error))
                    await asyncio.sleep(_JOIN_AGAIN)
                    continue
                # Whatever it was, runs go on here or elsewhere: this identity's work is interrupted, not lost.
                log.exception("this node's work broke off, joining anew")
                await asyncio.sleep(_JOIN_AGAIN)
            finally:
                self.tenure = None

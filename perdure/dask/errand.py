"""One piece of work on its way through the cluster."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from distributed import Client, Future, Queue

from perdure.dask.errors import LostOnCluster
from perdure.dask.promised import Promised
from perdure.dask.worker_side import Outcome, execute, tell

_LATE_ANNOUNCEMENT = 0.1
"""Seconds within which what the scheduler was told before a question is heard here, after its answer."""


class Errand:
    """Work with its token, of which there is one: it lies in a queue on the scheduler until a worker takes it.

    Dask calls a function again whose worker died, and one whose result it lost. A handler must not be called but by an
    attempt that the log knows of, so whoever finds the token gone leaves the handler alone. Which worker took it is
    announced before, so that its death is known here at once, whether or not another one is free to find that out.
    """

    def __init__(self, client: Client, promised: Promised) -> None:
        self.name = promised.name
        self._client = client
        self._promised = promised
        self._token: Queue | None = None
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._announced: set[str] = set()
        self._asking: set[asyncio.Task[None]] = set()

    async def run(self, payload: bytes, topic: str, how: Mapping[str, Any]) -> Outcome:
        """Have it done, and return what came of it. Raises LostOnCluster, or what Dask says."""
        # The token lies there before anybody may look for it.
        self._token = await Queue(self.name, client=self._client)
        await self._token.put(1)
        future = self._client.submit(
            execute, payload, self.name, topic, key=self.name, pure=False, retries=0, **how
        )  # fmt: skip
        answer = asyncio.create_task(_answer(future))
        try:
            both: set[asyncio.Future[Any]] = {answer, self._lost}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise LostOnCluster(self._lost.result())
            return answer.result()
        finally:
            answer.cancel()
            if not future.done():
                await self._client.cancel([future], reason="given up by perdure")

    def close(self) -> None:
        """Nobody may take the token any more."""
        for task in self._asking:
            task.cancel()
        if self._token is not None:
            self._token.close()

    def announced(self, worker: str) -> None:
        """A worker is about to take the token."""
        self._announced.add(worker)
        self._promised.begun()

    def gone(self, worker: str) -> None:
        """A worker left the cluster, dead or alive."""
        if worker not in self._announced:
            return
        self._announced.discard(worker)
        if not self._announced:
            task = asyncio.create_task(self._ask(worker))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def tell(self) -> None:
        """Tell the handler, wherever it is, to end."""
        if self._announced:
            with suppress(OSError):  # the scheduler is gone; a worker that is gone is ignored
                await self._client.run(tell, self.name, workers=list(self._announced), on_error="ignore")

    async def _ask(self, worker: str) -> None:
        """Whether it was the one that left who had taken the token."""
        assert self._token is not None
        with suppress(OSError):  # the scheduler is gone too, and says so itself
            if await self._token.qsize():
                return  # it had not: Dask hands the work to another
            await asyncio.sleep(_LATE_ANNOUNCEMENT)
            if not self._announced and not self._lost.done():
                self._lost.set_result(f"the Dask worker {worker} died or left with it")


async def _answer(future: Future[Outcome]) -> Outcome:
    outcome: Outcome = await future
    return outcome

"""A connection to a cluster's scheduler, and what it says of the errands under way."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from distributed import Client

from perdure.dask.errand import Errand
from perdure.dask.errors import SchedulerUnreachable
from perdure.dask.promised import Promised

_LOOK = 0.2


class Link:
    """A connection that is given up with its scheduler. ``open`` makes one."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.topic = f"perdure-{uuid4().hex}"
        """Under which workers announce what they begin."""
        # A client that connects anew has lost its subscriptions.
        self._comm = client.scheduler_comm
        self._errands: dict[str, Errand] = {}
        client.subscribe_topic(self.topic, self._announced)
        client.subscribe_topic("all", self._happened)

    @classmethod
    async def open(cls, address: str, security: Any, timeout: float) -> "Link":
        """Connect within ``timeout`` seconds. Raises SchedulerUnreachable."""
        client = Client(
            address, asynchronous=True, security=security, timeout=timeout, set_as_default=False, name="perdure"
        )
        try:
            await client
        except asyncio.CancelledError:
            await _close(client)
            raise
        except Exception as error:
            await _close(client)
            raise SchedulerUnreachable(
                f"no Dask scheduler answers at {address} within {timeout:g} s; is it running, and is this the address"
                f" that it printed? ({type(error).__name__}: {error})"
            ) from error
        return cls(client)

    @property
    def is_up(self) -> bool:
        """Whether it can be used."""
        return self.client.status == "running" and self.client.scheduler_comm is self._comm

    @contextmanager
    def errand(self, promised: Promised) -> Iterator[Errand]:
        """An errand that is told what happens to it."""
        errand = self._errands[promised.name] = Errand(self.client, promised)
        try:
            yield errand
        finally:
            del self._errands[errand.name]
            errand.close()

    async def tell(self, name: str) -> None:
        """Tell the handler of the errand to end."""
        if (errand := self._errands.get(name)) is not None:
            await errand.tell()

    async def retire(self) -> None:
        """Leave it to another link. A client that looks for its scheduler is left to end that first."""
        while self.client.status == "connecting":
            await asyncio.sleep(_LOOK)
        await self.close()

    async def close(self) -> None:
        """Leave the cluster."""
        await _close(self.client)

    def _announced(self, event: tuple[float, dict[str, str]]) -> None:
        _, said = event
        if (errand := self._errands.get(said["errand"])) is not None:
            errand.announced(said["worker"])

    def _happened(self, event: tuple[float, Any]) -> None:
        _, said = event
        if isinstance(said, dict) and said.get("action") == "remove-worker":
            for errand in self._errands.values():
                errand.gone(said["worker"])


async def _close(client: Client) -> None:
    with suppress(Exception):  # the scheduler may be gone
        await asyncio.wait_for(client.close(), 5)

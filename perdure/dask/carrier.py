"""Carries work to the cluster and what came of it back, in an event loop of its own."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from typing import Any

import cloudpickle
from distributed import KilledWorker

from perdure.dask.errors import CannotTravel, ClusterRefused, DaskError, LostOnCluster, SchedulerUnreachable
from perdure.dask.link import Link
from perdure.dask.promised import Promised
from perdure.dask.worker_side import Outcome


class Carrier:
    """All of it happens in the loop in which its methods are called."""

    def __init__(self, address: str, security: Any, connect_timeout: float, how: Mapping[str, Any]) -> None:
        self._address = address
        self._security = security
        self._connect_timeout = connect_timeout
        self._how = how
        self._opening: asyncio.Task[Link] | None = None
        self._under_way: dict[Promised, asyncio.Task[None]] = {}
        self._beside: set[asyncio.Task[None]] = set()
        self._leaving: asyncio.Task[None] | None = None

    def take(self, promised: Promised, work: Callable[[], Any]) -> None:
        """Begin to carry."""
        task = self._under_way[promised] = asyncio.create_task(self._carry(promised, work))
        task.add_done_callback(lambda _: self._under_way.pop(promised))

    def cancel(self, promised: Promised) -> None:
        """Its taker does not want it any more: what was withdrawn is given up, what has begun is told to end."""
        if (task := self._under_way.get(promised)) is None:
            return
        if promised.cancelled():
            task.cancel()
        elif (link := self._link) is not None:
            self._go(link.tell(promised.name))

    def leave(self, give_up: bool) -> None:
        """When all is over, close the connection and stop the loop."""
        if give_up:
            for task in self._under_way.values():
                task.cancel()
        self._leaving = self._leaving or asyncio.create_task(self._leave())

    async def _leave(self) -> None:
        while self._under_way:
            await asyncio.wait(list(self._under_way.values()))
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if (link := self._link) is not None:
            await link.close()
        if self._beside:
            await asyncio.wait(self._beside)
        asyncio.get_running_loop().stop()

    async def _carry(self, promised: Promised, work: Callable[[], Any]) -> None:
        try:
            promised.settle(_result(*await self._sent(promised, work)))
        except asyncio.CancelledError:
            promised.settle(error=LostOnCluster("the Dask executor was shut down"))
        except (CancelledError, KilledWorker, OSError) as error:
            # Dask's own words for: another client restarted the cluster, or the connection is gone.
            promised.settle(error=LostOnCluster(f"the Dask cluster at {self._address} lost it: {error}"))
        except BaseException as error:
            promised.settle(error=error)

    async def _sent(self, promised: Promised, work: Callable[[], Any]) -> Outcome:
        payload = _pickled(work)
        link = await self._linked()
        with link.errand(promised) as errand:
            try:
                return await errand.run(payload, link.topic, self._how)
            except (DaskError, CancelledError, KilledWorker, OSError):
                raise
            except Exception as error:
                raise ClusterRefused(
                    f"the Dask cluster at {self._address} could not call it; do its workers have Perdure and Dask in"
                    f" the versions of this node? ({type(error).__name__}: {error})"
                ) from error

    @property
    def _link(self) -> Link | None:
        opening = self._opening
        if opening is None or not opening.done() or opening.cancelled() or opening.exception() is not None:
            return None
        return opening.result()

    async def _linked(self) -> Link:
        """The connection: one that is up, one that is being made, or another."""
        link = self._link
        if self._opening is None or (self._opening.done() and (link is None or not link.is_up)):
            if link is not None:
                self._go(link.retire())
            self._opening = asyncio.create_task(Link.open(self._address, self._security, self._connect_timeout))
        try:
            return await asyncio.shield(self._opening)
        except SchedulerUnreachable as error:
            # One error object for each attempt: each keeps where it was raised.
            raise SchedulerUnreachable(str(error)) from error

    def _go(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)


class RemoteTraceback(Exception):
    """Where on the cluster the error was raised that this is the cause of."""

    def __str__(self) -> str:
        return "\n" + "".join(self.args)


def _pickled(work: Callable[[], Any]) -> bytes:
    try:
        return bytes(cloudpickle.dumps(work))
    except Exception as error:
        raise CannotTravel(
            f"the handler or its arguments cannot be sent to the Dask cluster: {type(error).__name__}: {error}; what a"
            " handler of __main__ or of another function names is sent with it, one of a module that the workers can"
            " import is not"
        ) from error


def _result(kind: str, what: Any) -> Any:
    match kind:
        case "returned":
            return _unpickled(what)
        case "raised":
            pickled, where = what
            error = _unpickled(pickled)
            error.__cause__ = RemoteTraceback(where)
            raise error
        case "refused":
            raise LostOnCluster(what)
        case _:
            raise CannotTravel(f"on the Dask worker: {what}")


def _unpickled(pickled: bytes) -> Any:
    try:
        return cloudpickle.loads(pickled)
    except Exception as error:
        raise CannotTravel(f"what the handler returned or raised cannot be read here: {error}") from error

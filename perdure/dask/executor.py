"""An executor of ``concurrent.futures`` over a Dask cluster."""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Any

from distributed import Client

from perdure.dask.carrier import Carrier
from perdure.dask.errors import DaskError
from perdure.dask.promised import Promised


class DaskExecutor(Executor):
    """Executes synchronous handlers on a Dask cluster, once an attempt and no more.

    ``cluster`` is a scheduler's address (``tcp://host:8786``), a ``distributed.Client``, or a cluster object such as
    ``LocalCluster``; of the latter two the address and the security are taken, not the connection. Nothing is
    connected before a handler is called, so this can stand in a decorator. ``resources``, ``workers`` and
    ``priority`` mean what they mean to Dask, for all that is executed here; ``security`` is a
    ``distributed.Security``, for TLS. An attempt for which no scheduler answers within ``connect_timeout`` seconds
    fails with SchedulerUnreachable; one whose worker or scheduler is lost is interrupted, and tried again. Where the
    cluster has no worker, or none free, the attempt is under way and waits.

    Raises DaskError where ``cluster`` is nothing of these, or not connected yet.
    """

    def __init__(
        self,
        cluster: Any,
        *,
        resources: Mapping[str, float] | None = None,
        workers: Sequence[str] | None = None,
        priority: int = 0,
        security: Any = None,
        connect_timeout: float = 10.0,
    ) -> None:
        address, own = _found(cluster)
        how = {"resources": dict(resources) if resources else None, "workers": workers, "priority": priority}
        self._carrier = Carrier(address, security or own, connect_timeout, how)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_shut = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Promised:
        """Have ``fn(*args, **kwargs)`` called on the cluster. Returns at once, in whatever state the cluster is."""
        work = partial(fn, *args, **kwargs) if args or kwargs else fn
        with self._lock:
            if self._is_shut:
                raise RuntimeError("this Dask executor was shut down; make another")
            loop = self._loop = self._loop or self._started()
            promised = Promised(lambda given: _in(loop, self._carrier.cancel, given))
            _in(loop, self._carrier.take, promised, work)
        return promised

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more, and leave the cluster when all is done; with ``cancel_futures``, give it all up now."""
        with self._lock:
            self._is_shut = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        _in(loop, self._carrier.leave, cancel_futures)
        if wait and thread is not threading.current_thread():
            thread.join()

    def _started(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        # A daemon: what never ends on the cluster must not keep the node's process.
        self._thread = threading.Thread(target=_serve, args=(loop,), name="perdure-dask", daemon=True)
        self._thread.start()
        return loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _in(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *given: Any) -> None:
    with suppress(RuntimeError):  # all was over, and the loop closed
        loop.call_soon_threadsafe(call, *given)


def _found(cluster: Any) -> tuple[str, Any]:
    """The scheduler's address, and the security with which it is spoken to."""
    if isinstance(cluster, str) and "://" in cluster:
        return cluster, None
    if isinstance(cluster, Client):
        if (scheduler := cluster.scheduler) is None:
            raise DaskError("this Dask client is not connected; await it first, or give the scheduler's address")
        return str(scheduler.address), cluster.security
    if isinstance(address := getattr(cluster, "scheduler_address", None), str) and "://" in address:
        return address, getattr(cluster, "security", None)
    raise DaskError(
        f"a Dask scheduler's address is like tcp://host:8786, and a cluster or client has one; not {cluster!r:.60}"
    )

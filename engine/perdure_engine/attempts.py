"""The attempts under way on a node: handlers called, cancelled, and given up; what came of each told to its home."""

import asyncio
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from datetime import datetime
from functools import partial
from uuid import UUID

import structlog

from perdure_engine.attempt import Attempt, Home, Order
from perdure_engine.calling import call
from perdure_engine.errors import NoRetry
from perdure_engine.exactly_once import ConnectionLost, ExactlyOnce
from perdure_engine.leases import Leases
from perdure_engine.run import commands as c
from perdure_engine.run.events import Limit
from perdure_engine.task_types import TaskTypes
from perdure_eventstore.door import Json, PayloadRefused
from perdure_eventstore.errors import FenceLost

log = structlog.get_logger(__name__)

_MOST_TRACEBACK = 8_000
_LEASE_POLL = 0.05

CANCEL_GRACE = 30.0
"""Seconds a handler gets to end once its run is stopping (rule 21)."""

_LIMIT_GRACE = 5.0
"""Seconds it gets once it is out of time."""

_AT_ONCE = 0.2


class Attempts:
    """The attempts under way on this node."""

    def __init__(
        self,
        types: TaskTypes,
        exactly_once: ExactlyOnce,
        *,
        now: Callable[[], datetime],
        leases: Leases,
    ) -> None:
        self._types = types
        self._exactly_once = exactly_once
        self._now = now
        self._leases = leases
        self._under_way: dict[tuple[UUID, str], Attempt] = {}
        self._abandoned = False
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._under_way)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(list(self._under_way.values()))

    def is_under_way(self, run: UUID, task_id: str) -> bool:
        """Whether this node is executing an attempt of the task."""
        return (run, task_id) in self._under_way

    def start(self, order: Order, home: Home) -> None:
        """Execute an attempt whose TaskStarted is on the disk."""
        attempt = Attempt(order, home)
        attempt.work = self._loop.create_task(self._execute(attempt))
        self._under_way[order.run_id, order.spec.task_id] = attempt
        # Not at the end of the coroutine: a task cancelled before its first step never gets there.
        attempt.work.add_done_callback(partial(self._ended, attempt))

    def cancel_run(self, run: UUID) -> None:
        """Cancel what is under way of a run that is stopping; each handler's end is told to the run."""
        for attempt in self:
            if attempt.order.run_id == run and attempt.reason is None:
                self._cancel(attempt, "stopping", CANCEL_GRACE)

    def cancel(self, run: UUID, task_id: str) -> None:
        """Cancel one attempt, whose run is stopping."""
        attempt = self._under_way.get((run, task_id))
        if attempt is not None and attempt.reason is None:
            self._cancel(attempt, "stopping", CANCEL_GRACE)

    def running_in(self, work: "asyncio.Task[object] | None") -> Attempt | None:
        """The attempt that an asyncio task executes."""
        return next((attempt for attempt in self if attempt.work is work), None)

    async def interrupt_all(self, seconds: float) -> None:
        """Cancel everything, cleanly: each attempt is recorded as interrupted by a stop, not as failed.

        What may be attempted only once is left to end by itself first. After ``seconds`` nothing is waited for.
        """
        by = self._loop.time() + seconds
        for attempt in self:
            if not attempt.at_most_once and attempt.reason is None:
                attempt.cancel("closing")
        await self._wait(seconds - 2 * _AT_ONCE)
        for attempt in self:
            attempt.cancel("closing")
        await self._wait(by - self._loop.time())
        for attempt in self:
            self._give_up(attempt)

    async def abandon_all(self) -> None:
        """Cancel everything and tell nobody: the runs belong to another node now."""
        self._abandoned = True
        for attempt in self:
            attempt.cancel("closing")
        await self._wait(_LIMIT_GRACE)

    async def _wait(self, seconds: float) -> None:
        if self._under_way and seconds > 0:
            await asyncio.wait([attempt.work for attempt in self], timeout=seconds)

    def _out_of_time(self, attempt: Attempt, limit: Limit) -> None:
        order = attempt.order
        log.warning(
            "attempt timed out", run=str(order.run_id), task=order.spec.task_id, attempt=order.attempt, limit=limit
        )
        self._cancel(attempt, limit, _LIMIT_GRACE)

    def _cancel(self, attempt: Attempt, reason: Limit | str, grace: float) -> None:
        attempt.cancel(reason)  # type: ignore[arg-type] # one of Reason
        self._loop.call_later(grace, self._give_up, attempt)

    def _give_up(self, attempt: Attempt) -> None:
        """Report the end of an attempt that was told to end and does not."""
        if attempt.work.done() or attempt.given_up:
            return
        order = attempt.order
        log.warning(
            "a handler goes on though it was cancelled; it is not waited for", run=str(order.run_id),
            task=order.spec.task_id, attempt=order.attempt, type=order.spec.type,
        )  # fmt: skip
        attempt.given_up = True
        del self._under_way[order.run_id, order.spec.task_id]
        # Who waits for a thread waits no more.
        attempt.work.cancel()
        if not self._abandoned:
            attempt.home.ended(attempt, attempt.cancelled(self._now()))

    def _ended(self, attempt: Attempt, work: "asyncio.Task[c.AttemptEnd | None]") -> None:
        attempt.disarm()
        if attempt.given_up:
            if not work.cancelled() and (late := work.exception()) is not None:
                log.info("an attempt that was given up ended", run=str(attempt.order.run_id), error=str(late))
            return
        del self._under_way[attempt.order.run_id, attempt.order.spec.task_id]
        if not self._abandoned:
            attempt.home.ended(attempt, self._outcome(attempt, work))

    def _outcome(self, attempt: Attempt, work: "asyncio.Task[c.AttemptEnd | None]") -> c.AttemptEnd | None:
        if work.cancelled():
            return attempt.cancelled(self._now())
        if (error := work.exception()) is not None:
            order = attempt.order
            log.error(
                "an attempt could not be executed", run=str(order.run_id), task=order.spec.task_id, exc_info=error
            )
            return c.FailAttempt(
                at=self._now(), task_id=order.spec.task_id, attempt=order.attempt, error=describe(error)
            )  # fmt: skip
        command = work.result()
        if command is not None and attempt.reason in ("start_to_close", "heartbeat"):
            # Whatever it did with its cancellation, it was too late.
            return attempt.cancelled(self._now())
        return command

    async def _execute(self, attempt: Attempt) -> c.AttemptEnd | None:
        """Call the handler; the command that tells the run what came of it, None if that is recorded already."""
        while not self._leases.is_valid:
            # Either it is renewed, or this node is fenced off and the attempt abandoned.
            await asyncio.sleep(_LEASE_POLL)
        task_type = attempt.task_type = self._types.get(attempt.order.spec.type)
        try:
            if task_type.exactly_once:
                await self._exactly_once.run(attempt, lambda: attempt.limit(self._out_of_time))
                return None
            attempt.limit(self._out_of_time)
            output = Json.of(await call(task_type, attempt.task))
            return attempt.completed(self._now(), output)
        except FenceLost as error:
            attempt.home.fenced(error)
            return None
        except ConnectionLost as lost:
            # An outage of the log's own Postgres is no fault of the handler's.
            return attempt.interrupted(self._now(), clean=lost.is_outage)
        except BrokenExecutor as error:
            if task_type.executor is None:
                # A pool of the handler's own: like any other error of its.
                return self._failed(attempt, error)
            order = attempt.order
            log.warning("an attempt's executor died", run=str(order.run_id), task=order.spec.task_id, error=str(error))
            return attempt.interrupted(self._now())
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            # A handler that calls sys.exit() ends its attempt, not the node.
            return self._failed(attempt, error)

    def _failed(self, attempt: Attempt, error: BaseException) -> c.FailAttempt:
        order, retried = attempt.order, not isinstance(error, NoRetry | PayloadRefused)
        log.warning(
            "attempt failed", run=str(order.run_id), task=order.spec.task_id, attempt=order.attempt, retried=retried,
            error=f"{type(error).__name__}: {_message(error)}",
        )  # fmt: skip
        return attempt.failed(self._now(), describe(error), retried=retried)


def describe(error: BaseException) -> Json:
    """An error as it is recorded: its type, its message, and where it was raised."""
    lines = "".join(traceback.format_exception(error))[-_MOST_TRACEBACK:]
    return Json.of(
        {"type": type(error).__name__, "message": _message(error), "traceback": _text(lines)}
    )  # fmt: skip


def _message(error: BaseException) -> str:
    try:
        return _text(str(error))
    except Exception:
        return "(its message cannot be read)"


def _text(text: str) -> str:
    # An error message may hold anything; what text cannot hold is shown escaped.
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")

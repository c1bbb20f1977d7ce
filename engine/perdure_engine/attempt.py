"""One attempt under way: what is executed, for whom, and why it was told to end."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Literal, Protocol
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure_engine.definitions.definition import Retry, TaskSpec
from perdure_engine.handlers import TaskType
from perdure_engine.retries import DEFAULT, retry_at
from perdure_engine.run import commands as c
from perdure_engine.run.events import Limit
from perdure_engine.task import Task
from perdure_eventstore.door import Json
from perdure_eventstore.errors import FenceLost

Reason = Literal["stopping", "closing"] | Limit
"""Why an attempt was cancelled: its run stops, its node does, or a limit of time was reached."""


class Order(msgspec.Struct, frozen=True):
    """What an attempt is of."""

    run_id: UUID
    workflow_id: str
    spec: TaskSpec
    attempt: int
    inputs: Json
    failures: int
    """Of the task before this attempt."""
    token: int
    """The fencing token."""


class Home(Protocol):
    """Where the end of an attempt is told: to its run, if that is held here, or to the run's owner."""

    def ended(self, attempt: "Attempt", command: c.AttemptEnd | None) -> None:
        """``command`` says what came of it; None if that is recorded already. Its slot is free."""

    async def keep(self, attempt: "Attempt", output: Json, connection: AsyncConnection) -> None:
        """Record the completion in the transaction of ``connection``, and commit.

        Raises AttemptSuperseded if it was decided otherwise; all is to be rolled back then.
        """

    def fenced(self, error: FenceLost) -> None:
        """An append showed that this node is taken for dead."""


class Attempt:
    """An attempt this node executes."""

    __slots__ = ("_timer", "given_up", "home", "order", "reason", "task", "task_type", "work")

    def __init__(self, order: Order, home: Home) -> None:
        self.order, self.home = order, home
        self.task = Task(order.run_id, order.workflow_id, order.spec.task_id, order.attempt, order.inputs,
                         order.token)  # fmt: skip
        self.reason: Reason | None = None
        self.given_up = False
        """It was told to end and did not: its end was reported without it."""
        self.task_type: TaskType | None = None
        self.work: asyncio.Task[c.AttemptEnd | None]
        self._timer: asyncio.TimerHandle | None = None

    def limit(self, out_of_time: Callable[["Attempt", Limit], None]) -> None:
        """From now on its time counts; ``out_of_time`` is called when a limit is reached."""
        timeout, heartbeat = self.timeout, self.heartbeat
        if timeout is None and heartbeat is None:
            return
        loop, begun = asyncio.get_running_loop(), monotonic()
        self.task.beat = begun

        def look() -> None:
            now = monotonic()
            if timeout is not None and now >= begun + timeout:
                out_of_time(self, "start_to_close")
            elif heartbeat is not None and now >= self.task.beat + heartbeat:
                out_of_time(self, "heartbeat")
            else:
                wait()

        def wait() -> None:
            ends = [] if timeout is None else [begun + timeout]
            if heartbeat is not None:
                ends.append(self.task.beat + heartbeat)
            self._timer = loop.call_later(max(min(ends) - monotonic(), 0), look)

        wait()

    def disarm(self) -> None:
        """Its time counts no more."""
        if self._timer is not None:
            self._timer.cancel()

    def cancel(self, reason: Reason) -> None:
        """Tell the handler to end; the first reason counts."""
        self.reason = self.reason or reason
        self.task.is_cancelled = True
        self.work.cancel()

    @property
    def timeout(self) -> float | None:
        """Seconds it may take."""
        own = self.order.spec.timeout
        return own if own is not None or self.task_type is None else self.task_type.timeout

    @property
    def heartbeat(self) -> float | None:
        """Seconds it may go without a sign of life."""
        own = self.order.spec.heartbeat
        return own if own is not None or self.task_type is None else self.task_type.heartbeat

    @property
    def at_most_once(self) -> bool:
        """Whether no other may follow it."""
        return (self.order.spec.delivery or (self.task_type and self.task_type.delivery)) == "at_most_once"

    @property
    def _policy(self) -> Retry:
        return self.order.spec.retry or (self.task_type and self.task_type.retry) or DEFAULT

    # What may have come of it.

    def completed(self, at: datetime, output: Json) -> c.CompleteAttempt:
        """The handler returned."""
        return c.CompleteAttempt(at=at, task_id=self.order.spec.task_id, attempt=self.order.attempt, output=output)

    def failed(self, at: datetime, error: Json, *, retried: bool) -> c.FailAttempt:
        """The handler raised; ``retried`` whether an error of this kind may be tried again."""
        policy = self._policy
        return c.FailAttempt(
            at=at, task_id=self.order.spec.task_id, attempt=self.order.attempt, error=error,
            max_attempts=policy.attempts if retried else 1,
            retry_at=retry_at(policy, self.order.failures + 1, at) if retried else None,
        )  # fmt: skip

    def interrupted(self, at: datetime, *, clean: bool = False) -> c.InterruptAttempt:
        """Whoever executed it stopped or died."""
        return c.InterruptAttempt(at=at, task_id=self.order.spec.task_id, attempt=self.order.attempt, clean=clean)

    def cancelled(self, at: datetime) -> c.AttemptEnd:
        """It ended because it was cancelled: what that means."""
        spec, attempt = self.order.spec, self.order.attempt
        match self.reason:
            case None if self.work.cancelling():
                # By somebody else: all tasks are, where the event loop is told to end.
                return self.interrupted(at)
            case None:
                # A handler that raises CancelledError by itself has failed like any other.
                error = Json.of({"type": "CancelledError", "message": "the handler cancelled itself"})
                return self.failed(at, error, retried=True)
            case "stopping":
                return c.CancelAttempt(at=at, task_id=spec.task_id, attempt=attempt)
            case "closing":
                return self.interrupted(at, clean=True)
            case limit:
                policy = self._policy
                seconds = (self.heartbeat if limit == "heartbeat" else self.timeout) or 0.0
                return c.TimeOutAttempt(
                    at=at, task_id=spec.task_id, attempt=attempt, timeout=seconds, limit=limit,
                    max_attempts=policy.attempts, retry_at=retry_at(policy, self.order.failures + 1, at),
                )  # fmt: skip

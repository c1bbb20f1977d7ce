"""Executing attempts: a handler called, and what came of it told to its run."""

import asyncio
import traceback
from collections.abc import Callable
from datetime import datetime
from functools import partial
from uuid import UUID

import structlog

from perdure_engine.definitions.definition import Retry, TaskSpec
from perdure_engine.errors import NoRetry
from perdure_engine.exactly_once import ConnectionLost, ExactlyOnce
from perdure_engine.handlers import TaskType, call
from perdure_engine.held_run import HeldRun
from perdure_engine.leases import Leases
from perdure_engine.retries import DEFAULT, retry_at
from perdure_engine.run import commands as c
from perdure_engine.task import Task
from perdure_engine.task_types import TaskTypes
from perdure_eventstore.door import Json, PayloadRefused
from perdure_eventstore.errors import FenceLost

log = structlog.get_logger(__name__)

_MOST_TRACEBACK = 8_000
_LEASE_POLL = 0.05


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
        self._under_way: dict[tuple[UUID, str], asyncio.Task[c.RunCommand | None]] = {}
        self._stopping: set[UUID] = set()
        self._closing = self._abandoned = False
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._under_way)

    def is_under_way(self, run: UUID, task_id: str) -> bool:
        """Whether this node is executing an attempt of the task."""
        return (run, task_id) in self._under_way

    def start(self, run: HeldRun, task_id: str, attempt: int) -> None:
        """Execute an attempt whose TaskStarted is on the disk."""
        task = self._loop.create_task(self._execute(run, task_id, attempt))
        self._under_way[run.run_id, task_id] = task
        # Not at the end of the coroutine: a task cancelled before its first step never gets there.
        task.add_done_callback(partial(self._ended, run, task_id, attempt))

    def cancel_run(self, run: UUID) -> None:
        """Cancel what is under way of a run that is stopping; each handler's end is told to the run."""
        self._stopping.add(run)
        for (each, _), task in self._under_way.items():
            if each == run:
                task.cancel()

    def forget_run(self, run: UUID) -> None:
        """The run has ended."""
        self._stopping.discard(run)

    async def interrupt_all(self) -> None:
        """Cancel everything, cleanly: each attempt is recorded as interrupted by a stop, not as failed."""
        self._closing = True
        await self._cancel_all()

    async def abandon_all(self) -> None:
        """Cancel everything and tell nobody: the runs belong to another node now."""
        self._abandoned = True
        await self._cancel_all()

    async def _cancel_all(self) -> None:
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, run: HeldRun, task_id: str, attempt: int, task: "asyncio.Task[c.RunCommand | None]") -> None:
        if self._abandoned:
            return
        del self._under_way[run.run_id, task_id]
        if task.cancelled():
            command: c.RunCommand | None = self._cancelled(run.run_id, task_id, attempt)
        elif (error := task.exception()) is None:
            command = task.result()
        else:
            log.error("an attempt could not be executed", run=str(run.run_id), task=task_id, exc_info=error)
            command = c.FailAttempt(at=self._now(), task_id=task_id, attempt=attempt, error=describe(error))
        run.attempt_ended(command)

    def _cancelled(self, run: UUID, task_id: str, attempt: int) -> c.RunCommand:
        if run in self._stopping:
            return c.CancelAttempt(at=self._now(), task_id=task_id, attempt=attempt)
        if not self._closing:
            # A handler that raises CancelledError by itself has failed like any other.
            error = Json.of({"type": "CancelledError", "message": "the handler cancelled itself"})
            return c.FailAttempt(at=self._now(), task_id=task_id, attempt=attempt, error=error)
        return c.InterruptAttempt(at=self._now(), task_id=task_id, attempt=attempt, clean=True)

    async def _execute(self, run: HeldRun, task_id: str, attempt: int) -> c.RunCommand | None:
        """Call the handler; the command that tells the run what came of it, None if that is recorded already."""
        while not self._leases.is_valid:
            # Either it is renewed, or this node is fenced off and the attempt abandoned.
            await asyncio.sleep(_LEASE_POLL)
        state = run.state
        spec, known = state.definition.tasks[task_id], state.task(task_id)
        task = Task(
            run.run_id, state.definition.workflow_id, task_id, attempt, known.inputs.value,
            self._leases.fencing_token(run.run_id),
        )  # fmt: skip
        task_type = self._types.get(spec.type)
        seconds = spec.timeout if spec.timeout is not None else task_type.timeout
        try:
            if seconds is None:
                return await self._work(run, task_type, task)
            async with asyncio.timeout(seconds) as limit:
                return await self._work(run, task_type, task)
        except FenceLost as error:
            run.fenced(error)
            return None
        except ConnectionLost:
            # The log's own Postgres went away: no fault of the handler's.
            return c.InterruptAttempt(at=self._now(), task_id=task_id, attempt=attempt)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            # A handler that calls sys.exit() ends its attempt, not the node.
            if seconds is not None and isinstance(error, TimeoutError) and limit.expired():
                return self._timed_out(run, spec, task_type, attempt, seconds)
            return self._failed(run, spec, task_type, attempt, error)

    async def _work(self, run: HeldRun, task_type: TaskType, task: Task) -> c.RunCommand | None:
        if task_type.exactly_once:
            await self._exactly_once.run(run, task, lambda connection: call(task_type, task, connection))
            return None
        output = Json.of(await call(task_type, task))
        return c.CompleteAttempt(at=self._now(), task_id=task.task_id, attempt=task.attempt, output=output)

    def _timed_out(
        self, run: HeldRun, spec: TaskSpec, task_type: TaskType, attempt: int, seconds: float
    ) -> c.TimeOutAttempt:
        at, policy = self._now(), _policy(spec, task_type)
        log.warning("attempt timed out", run=str(run.run_id), task=spec.task_id, attempt=attempt, timeout=seconds)
        return c.TimeOutAttempt(
            at=at, task_id=spec.task_id, attempt=attempt, timeout=seconds, max_attempts=policy.attempts,
            retry_at=retry_at(policy, run.state.task(spec.task_id).failures + 1, at),
        )  # fmt: skip

    def _failed(
        self, run: HeldRun, spec: TaskSpec, task_type: TaskType, attempt: int, error: BaseException
    ) -> c.FailAttempt:
        at, policy = self._now(), _policy(spec, task_type)
        retried = not isinstance(error, NoRetry | PayloadRefused)
        log.warning(
            "attempt failed", run=str(run.run_id), task=spec.task_id, attempt=attempt, retried=retried,
            error=f"{type(error).__name__}: {_message(error)}",
        )  # fmt: skip
        return c.FailAttempt(
            at=at, task_id=spec.task_id, attempt=attempt, error=describe(error),
            max_attempts=policy.attempts if retried else 1,
            retry_at=retry_at(policy, run.state.task(spec.task_id).failures + 1, at) if retried else None,
        )  # fmt: skip


def _policy(spec: TaskSpec, task_type: TaskType) -> Retry:
    return spec.retry or task_type.retry or DEFAULT


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

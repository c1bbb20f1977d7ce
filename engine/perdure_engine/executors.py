"""Where synchronous handlers of a type are executed, if not in a thread: any executor of ``concurrent.futures``."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import BrokenExecutor, Executor
from concurrent.futures import Future as Promise
from typing import Any


class WorkLost(BrokenExecutor):
    """What an executor raises that lost this one piece of work, and is whole itself."""


class ExecutorUnusable(Exception):
    """No work can be given to the executor of a task type. The message says why, and what would be right."""


class Executing:
    """A piece of work that an executor has."""

    def __init__(self, promise: "Promise[Any]") -> None:
        self._promise = promise
        self.ended = asyncio.wrap_future(promise)
        """Its result. Cancelling this leaves the work to end unheard."""

    def withdraw(self) -> None:
        """Take it back if it has not begun; ``ended`` is cancelled then. An executor may tell work that has begun."""
        self._promise.cancel()


class ExecutorOf:
    """An executor as it was handed in, or made by a function when it is first needed, and anew after it broke."""

    def __init__(self, given: Executor | Callable[[], Executor], task_type: str) -> None:
        """``task_type`` is the name of the type it is for."""
        self._make = None if isinstance(given, Executor) else given
        self._executor = given if isinstance(given, Executor) else None
        self._task_type = task_type

    def submit(self, work: Callable[[], Any]) -> Executing:
        """Execute ``work``. Its error is BrokenExecutor where the executor died under it.

        Raises ExecutorUnusable where there is none that takes it, and BrokenExecutor where the next one made will.
        """
        executor = self._executor = self._executor or self._made()
        try:
            executing = Executing(executor.submit(work))
        except RuntimeError as error:
            # Broken, shut down, or without room. Nobody died at this work, which has not begun.
            self._forget(executor, broken=isinstance(error, BrokenExecutor))
            if self._make is not None and isinstance(error, BrokenExecutor):
                raise
            raise ExecutorUnusable(self._unusable(error)) from error
        executing.ended.add_done_callback(lambda done: self._look(executor, done))
        return executing

    def close(self) -> None:
        """Let what was made here end when its work has; one that was handed in is its owner's."""
        if self._make is not None and self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

    def _made(self) -> Executor:
        assert self._make is not None
        if isinstance(made := self._make(), Executor):
            return made
        if isinstance(made, Coroutine):
            made.close()
        raise ExecutorUnusable(
            f"the executor of {self._task_type} cannot be made: its function returned {made!r:.60}, which is no "
            "executor of concurrent.futures"
        )

    def _unusable(self, error: RuntimeError) -> str:
        said = f"the executor of {self._task_type} takes no work: {error!s:.200}"
        if self._make is not None:
            return f"{said}; another is made for the next attempt"
        return (
            f"{said}; hand in a function that makes one, which is called anew when it breaks, or restart this process"
        )

    def _look(self, executor: Executor, done: "asyncio.Future[Any]") -> None:
        if done.cancelled():
            return
        error = done.exception()
        if isinstance(error, BrokenExecutor) and not isinstance(error, WorkLost):
            self._forget(executor, broken=True)

    def _forget(self, executor: Executor, *, broken: bool) -> None:
        """Make another for what comes; the work that one which is whole has still ends there."""
        if self._make is not None and self._executor is executor:
            executor.shutdown(wait=False, cancel_futures=broken)
            self._executor = None

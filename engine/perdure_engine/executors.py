"""Where synchronous handlers of a type are executed, if not in a thread: any executor of ``concurrent.futures``."""

import asyncio
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor
from concurrent.futures import Future as Promise
from typing import Any


class WorkLost(BrokenExecutor):
    """What an executor raises that lost this one piece of work, and is whole itself."""


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

    def __init__(self, given: Executor | Callable[[], Executor]) -> None:
        self._make = None if isinstance(given, Executor) else given
        self._executor = given if isinstance(given, Executor) else None

    def submit(self, work: Callable[[], Any]) -> Executing:
        """Execute ``work``. Its error is BrokenExecutor where the executor died under it."""
        if self._executor is None:
            assert self._make is not None
            self._executor = self._make()
        executor = self._executor
        try:
            executing = Executing(executor.submit(work))
        except BrokenExecutor:
            self._broke(executor)
            raise
        executing.ended.add_done_callback(lambda done: self._look(executor, done))
        return executing

    def close(self) -> None:
        """Let what was made here end when its work has; one that was handed in is its owner's."""
        if self._make is not None and self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

    def _look(self, executor: Executor, done: "asyncio.Future[Any]") -> None:
        if done.cancelled():
            return
        error = done.exception()
        if isinstance(error, BrokenExecutor) and not isinstance(error, WorkLost):
            self._broke(executor)

    def _broke(self, executor: Executor) -> None:
        if self._make is not None and self._executor is executor:
            executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

"""What an executor of Dask returns for a piece of work."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from uuid import uuid4


class Promised(Future[Any]):
    """The result to come. ``cancel`` also reaches work that has begun: its ``task.is_cancelled`` becomes true."""

    def __init__(self, on_cancel: Callable[["Promised"], None]) -> None:
        super().__init__()
        self.name = f"perdure-{uuid4().hex}"
        """Of the work, on the cluster."""
        self._on_cancel = on_cancel

    def cancel(self) -> bool:
        """Take the work back; False if it has begun, or is over: work that has begun is told to end."""
        withdrawn = super().cancel()
        self._on_cancel(self)
        return withdrawn

    def begun(self) -> None:
        """A worker is about to call it."""
        if not self.running() and not self.done():
            self.set_running_or_notify_cancel()

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Say what came of it, if that is still asked for."""
        self.begun()
        if not self.running():
            return
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(result)

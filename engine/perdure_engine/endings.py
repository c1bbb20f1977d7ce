"""Who waits for the end of a run that this process executes is told at once, without asking the log."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from uuid import UUID

from perdure_engine.run.events import RunEvent
from perdure_engine.run.state import RunState

_MOST = 2_000
_MOST_BYTES = 32 * 1024 * 1024
"""Of inputs and outputs. Who asks for more reads the log."""


class Endings:
    """A ``holder.Listener`` that remembers the runs that ended last."""

    def __init__(self) -> None:
        self._recent: OrderedDict[UUID, tuple[RunState, int]] = OrderedDict()
        self._size = 0
        self._waiting: dict[UUID, list[asyncio.Future[None]]] = {}

    def told(self, run: UUID, events: Sequence[RunEvent], state: RunState) -> None:
        """Take in a commit."""
        if not state.is_ended:
            return
        self._remember(run, state)
        for future in self._waiting.pop(run, ()):
            if not future.done():
                future.set_result(None)

    def get(self, run: UUID) -> RunState | None:
        """The final state, if the run ended here not long ago."""
        remembered = self._recent.get(run)
        return None if remembered is None else remembered[0]

    def drop(self, run: UUID) -> None:
        """The run was erased: what it gave is not remembered any more."""
        _, size = self._recent.pop(run, (None, 0))
        self._size -= size

    async def wait(self, run: UUID, seconds: float) -> None:
        """Wait until the run is seen to end, at most ``seconds``; it may have ended elsewhere unseen."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(run, []).append(future)
        unseen = loop.call_later(seconds, self._forget, run, future)
        try:
            await future
        finally:
            unseen.cancel()
            if future.cancelled():
                self._forget(run, future)

    def _remember(self, run: UUID, state: RunState) -> None:
        self.drop(run)
        values = [state.input, state.output, state.error]
        for task in state.tasks.values():
            values += task.inputs, task.output, task.error
        size = sum([len(value.text) for value in values if value is not None])
        if size > _MOST_BYTES:
            # All the others would have to make room for it.
            return
        self._recent[run] = state, size
        self._size += size
        while len(self._recent) > _MOST or self._size > _MOST_BYTES:
            self.drop(next(iter(self._recent)))

    def _forget(self, run: UUID, future: "asyncio.Future[None]") -> None:
        """Nobody waits in it any more."""
        if (waiting := self._waiting.get(run)) is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[run]
        if not future.done():
            future.set_result(None)

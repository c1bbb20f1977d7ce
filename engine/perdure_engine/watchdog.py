"""Whoever blocks the event loop is named: a handler that computes or sleeps in it stops the node's other work."""

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable
from time import monotonic

import structlog

from perdure_engine.attempt import Attempt

log = structlog.get_logger(__name__)

BLOCKED = 0.5
"""Seconds for which the loop may stand still before that is said."""

_BEAT = 0.1
_FRAMES = 6


class Watchdog:
    """A thread that looks whether the event loop still turns; ``stop`` it."""

    def __init__(self, attempt_of: Callable[["asyncio.Task[object] | None"], Attempt | None]) -> None:
        """Begin, in the loop to be watched. ``attempt_of`` finds the attempt that an asyncio task executes."""
        self._loop, self._attempt_of = asyncio.get_running_loop(), attempt_of
        self._thread_id = threading.get_ident()
        self._stopped = threading.Event()
        self._beat = monotonic()
        self._turn()
        threading.Thread(target=self._watch, name="perdure watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()
        self._timer.cancel()

    def _turn(self) -> None:
        self._beat = monotonic()
        self._timer = self._loop.call_later(_BEAT, self._turn)

    def _watch(self) -> None:
        told = 0.0
        while not self._stopped.wait(_BEAT):
            beat = self._beat
            if monotonic() - beat > BLOCKED + _BEAT and told != beat:
                told = beat
                self._tell()

    def _tell(self) -> None:
        frame = sys._current_frames().get(self._thread_id)
        where = "".join(traceback.format_list(traceback.extract_stack(frame)[-_FRAMES:])) if frame else ""
        attempt = self._attempt_of(asyncio.current_task(self._loop))
        if attempt is None:
            log.warning("something blocks the event loop", seconds=BLOCKED, where=where)
            return
        order = attempt.order
        log.warning(
            "a handler blocks the event loop, and with it all else on this node; make it a plain `def`, which runs in "
            "a thread, or give it an executor",
            type=order.spec.type, run=str(order.run_id), task=order.spec.task_id, attempt=order.attempt,
            seconds=BLOCKED, where=where,
        )  # fmt: skip

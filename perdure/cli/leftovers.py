"""What goes on in this process though it was told to end: it is named, and not waited for."""

import asyncio
import multiprocessing
import sys
from collections.abc import Iterator
from types import FrameType

from perdure_engine.attempt import Attempt

_LAST = 1.0
"""Seconds to end in, for what is told to for the last time. Handlers had their grace before."""


async def end_the_rest() -> list[str]:
    """Cancel whatever the event loop still has. What goes on all the same is named."""
    loop = asyncio.get_running_loop()
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for each in rest:
        each.cancel()
    # It waits for the threads of asyncio.to_thread(), which nobody can cancel.
    rest.add(loop.create_task(loop.shutdown_default_executor()))
    await asyncio.wait(rest, timeout=_LAST)
    return [_named(each) for each in rest if not each.done()]


def handlers_in_threads() -> Iterator[str]:
    """The functions of synchronous handlers that threads still execute."""
    for frame in sys._current_frames().values():
        inner: FrameType | None = frame
        while inner is not None:
            if inner.f_code.co_name == "_caught" and inner.f_globals.get("__name__") == "perdure_engine.calling":
                handler = getattr(inner.f_locals["function"], "func", None)
                yield f"{getattr(handler, '__qualname__', 'a handler')}, in a thread"
            inner = inner.f_back


def end_workers() -> None:
    """End the processes of this one's pools, which would outlive it."""
    for child in multiprocessing.active_children():
        child.terminate()


def _named(task: "asyncio.Task[object]") -> str:
    frame = getattr(task.get_coro(), "cr_frame", None)
    attempt = frame.f_locals.get("attempt") if frame is not None else None
    if isinstance(attempt, Attempt):
        order = attempt.order
        return f"{order.spec.type}, task {order.spec.task_id} of run {order.run_id}"
    if getattr(task.get_coro(), "__name__", "") == "shutdown_default_executor":
        return "a thread of asyncio.to_thread()"
    return getattr(task.get_coro(), "__qualname__", task.get_name())

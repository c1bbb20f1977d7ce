"""Running a verb's coroutine: its event loop, its log lines, and the signals that end it."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any

from perdure.cli import exits
from perdure.cli.ending import leave_behind
from perdure.cli.leftovers import end_the_rest
from perdure.logging import configure


def run(work: Coroutine[Any, Any, int], verbose: int) -> int:
    """Run ``work`` to its exit status. Ctrl-C and SIGTERM cancel it, and it cleans up; a second one does not wait.

    What goes on in the event loop though it is cancelled is named and left behind: ``leave`` ends the process then.
    """
    configure(verbose)
    runner = asyncio.Runner()
    try:
        return runner.run(_until_signalled(work))
    finally:
        if left := runner.run(end_the_rest()):
            leave_behind(left)
        else:
            runner.close()


async def _until_signalled(work: Coroutine[Any, Any, int]) -> int:
    loop, working = asyncio.get_running_loop(), asyncio.ensure_future(work)
    received: list[int] = []

    def stop(number: int) -> None:
        if received:
            os._exit(exits.SIGNALLED + number)
        received.append(number)
        working.cancel()

    os.register_at_fork(after_in_child=_forget_signals)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        return await working
    except asyncio.CancelledError:
        if not received:
            raise
        return exits.SIGNALLED + received[0]


def _forget_signals() -> None:
    """In a forked child, such as a pool's worker: its signals are its own, and are not written to our event loop."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Ctrl-C reaches it too. Its work is ended by whoever gave it.
    signal.signal(signal.SIGINT, _unheard)


def _unheard(number: int, frame: object) -> None: ...

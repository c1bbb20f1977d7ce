"""Running a verb's coroutine: its event loop, its log lines, and the signals that end it."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any

from perdure.cli import exits
from perdure.logging import configure


def run(work: Coroutine[Any, Any, int], verbose: int) -> int:
    """Run ``work`` to its exit status. Ctrl-C and SIGTERM cancel it, and it cleans up; a second one does not wait."""
    configure(verbose)
    with asyncio.Runner() as runner:
        return runner.run(_until_signalled(work))


async def _until_signalled(work: Coroutine[Any, Any, int]) -> int:
    loop, working = asyncio.get_running_loop(), asyncio.ensure_future(work)
    received: list[int] = []

    def stop(number: int) -> None:
        if received:
            os._exit(exits.SIGNALLED + number)
        received.append(number)
        working.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        return await working
    except asyncio.CancelledError:
        if not received:
            raise
        return exits.SIGNALLED + received[0]

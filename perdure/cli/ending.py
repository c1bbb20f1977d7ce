"""The end of the process."""

import os
import sys
import threading
from collections.abc import Iterable
from typing import NoReturn

_left: list[str] = []
"""What goes on in an event loop that could not be closed."""


def leave(status: int) -> NoReturn:
    """End the process with ``status``, whatever still runs in it, which is named."""
    try:
        sys.stdout.flush()
    except OSError:
        silence_output()
    if _left or any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        from perdure.cli.leftovers import end_workers, handlers_in_threads

        # A synchronous handler cannot be cancelled, and any may refuse. Its attempt is recorded as interrupted.
        for what in (*_left, *handlers_in_threads()):
            print(f"perdure: not waited for, it went on though it was told to end: {what}", file=sys.stderr)
        sys.stderr.flush()
        end_workers()
        os._exit(status)
    sys.stderr.flush()
    sys.exit(status)


def leave_behind(what: Iterable[str]) -> None:
    """Have ``leave`` name what goes on in the event loop, and not wait for it."""
    _left.extend(what)


def silence_output() -> None:
    """Have standard output lead nowhere, so that nothing complains of a closed pipe at the very end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

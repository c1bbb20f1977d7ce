"""The end of the process."""

import os
import sys
import threading
from typing import NoReturn


def leave(status: int) -> NoReturn:
    """End the process with ``status``, whatever threads still run."""
    try:
        sys.stdout.flush()
    except OSError:
        silence_output()
    sys.stderr.flush()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        # A synchronous handler cannot be cancelled. Its attempt is recorded as interrupted: nobody waits for it.
        os._exit(status)
    sys.exit(status)


def silence_output() -> None:
    """Have standard output lead nowhere, so that nothing complains of a closed pipe at the very end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

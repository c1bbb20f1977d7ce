"""A node of the demo: ``perdure up``, which also stops when the demo that started it is gone, however it went."""

import os
import signal
import sys
import threading

from perdure.cli import main


def _until_orphaned() -> None:
    # The demo holds the other end and never writes: only its end ends this.
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_until_orphaned, daemon=True).start()
    main()

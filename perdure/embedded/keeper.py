"""The keeper: a process that starts the server, sleeps while anybody holds it, and stops it when nobody is left.

It is a process of its own session, so neither Ctrl-C nor the end of the holder that started it reaches the server.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

from . import holders, postmaster
from .cluster import Cluster, open_log
from .errors import EmbeddedPostgresError
from .places import Places

# `-m perdure.embedded.keeper` would import all of Perdure into a process that only sleeps. Appended to the path, the
# folder hides no module of Python.
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from embedded.keeper import main; main(sys.argv[1:])"


def launch(places: Places, binaries: Path, lock: int, keeper_pass: int) -> None:
    """Start a keeper and return when its server takes connections.

    The keeper inherits the descriptor `lock` until then, so that nobody starts a second server should this process
    die meanwhile, and `keeper_pass` for as long as it lives.

    Raises EmbeddedPostgresError if the server does not start.
    """
    package = Path(__file__).parent
    arguments = [str(package.parent), str(places.folder), str(binaries), str(lock), str(keeper_pass)]
    log = open_log(places)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BOOT, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=(lock, keeper_pass),
            start_new_session=True,
        )
    finally:
        os.close(log)
    report, _ = process.communicate()
    said = os.fsdecode(report)
    if said == "ready":
        return
    raise EmbeddedPostgresError(
        said or f"The keeper of the embedded database ended before its server was ready: see {places.log}"
    )


def main(arguments: list[str]) -> None:
    """Be the keeper: start the server unless it runs, report on standard output, and watch until nobody holds it."""
    if os.fork() != 0:
        os._exit(0)  # the caller has nothing to reap later
    places, binaries, lock = Places(Path(arguments[0])), Path(arguments[1]), int(arguments[2])
    later_lock = places.lock.open("rb")
    os.chdir("/")
    try:
        if postmaster.find_postmaster(places.data) is None:
            Cluster(places, binaries).start()
            _reap_by_itself()
        said = "ready"
    except EmbeddedPostgresError as error:
        said = str(error)
    except OSError as error:
        said = f"The embedded database in {places.folder} did not start: {error}"
    os.close(lock)
    _report(said)
    if said == "ready":
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)  # the holders decide when it ends
        _watch(places, later_lock.fileno())


def _reap_by_itself() -> None:
    """Have the system reap the server: one that has ended must be seen as gone while the keeper sleeps."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # it may have ended just before


def _watch(places: Places, lock: int) -> None:
    while True:
        holders.wait_for_one(places.holders)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not holders.living(places.holders):
            postmaster.stop(places.data)
            return
        fcntl.flock(lock, fcntl.LOCK_UN)


def _report(said: str) -> None:
    """Write the sentence for the caller and let go of its pipe."""
    with contextlib.suppress(BrokenPipeError):  # the caller may be dead by now
        os.write(sys.stdout.fileno(), os.fsencode(said))
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

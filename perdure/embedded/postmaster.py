"""The running server, as its own file postmaster.pid tells of it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .errors import EmbeddedPostgresError
from .places import is_temporary, remove_sockets

_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.005
# Above every system's highest process id, so that Postgres finds nobody there.
_NOBODY = 2**31 - 1


@dataclass(frozen=True)
class Postmaster:
    """The first process of a server: its id, its socket's folder if known yet, and whether it takes connections."""

    pid: int
    socket_folder: Path | None
    ready: bool


def find_postmaster(data: Path) -> Postmaster | None:
    """Return the server that runs on this data directory, or None; a file that a dead server left does not count."""
    written = read_pid_file(data)
    return written if written is not None and _runs(written.pid, data) else None


def read_pid_file(data: Path) -> Postmaster | None:
    """Return what postmaster.pid says, of a server that lives or not; None if it is missing or empty."""
    # Lines: process id, data directory, start time, port, socket folder, listen address, shared memory, status.
    try:
        lines = os.fsdecode((data / "postmaster.pid").read_bytes()).splitlines()
        pid = abs(int(lines[0]))
    except (FileNotFoundError, IndexError, ValueError):
        return None
    socket_folder = Path(lines[4]) if len(lines) > 4 and lines[4] else None
    return Postmaster(pid, socket_folder, len(lines) > 7 and lines[7].strip() == "ready")


def disown_stale(data: Path) -> None:
    """Keep a dead server's postmaster.pid from stopping a new one. The caller knows that no server runs or starts here.

    Postgres believes the file if any process of the same user has that id by now. What else the file says stays,
    because with it Postgres looks for processes of the dead server that are still at work on the data.
    """
    file = data / "postmaster.pid"
    with contextlib.suppress(FileNotFoundError):
        content = file.read_bytes()
        _first, newline, rest = content.partition(b"\n")
        if not newline:
            file.unlink()
            return
        with file.open("r+b") as opened:  # in place, so that it keeps its owner
            opened.write(b"%d\n" % _NOBODY + rest)
            opened.truncate()


def stop(data: Path) -> None:
    """Stop the server, if one runs, and return when it is gone. Sessions end, and their open transactions are undone.

    Raises EmbeddedPostgresError if it does not end.
    """
    server = find_postmaster(data)
    if server is None:
        return
    for how, seconds in ((signal.SIGINT, _STOP_SECONDS), (signal.SIGQUIT, _STOP_SECONDS / 6)):
        try:
            os.kill(server.pid, how)
        except ProcessLookupError:
            break
        except PermissionError:
            raise EmbeddedPostgresError(
                f"The Postgres of {data} (process {server.pid}) belongs to another user, who has to stop it."
            ) from None
        if _wait_until_gone(server.pid, data, seconds):
            break
    else:
        raise EmbeddedPostgresError(
            f"The Postgres of {data} (process {server.pid}) does not stop: see the end of postgres.log beside it."
        )
    if server.socket_folder is not None and is_temporary(server.socket_folder):
        remove_sockets(server.socket_folder)
        with contextlib.suppress(OSError):
            server.socket_folder.rmdir()


def _wait_until_gone(pid: int, data: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while _runs(pid, data):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _runs(pid: int, data: Path) -> bool:
    """Whether the process lives and is a server on this data directory, not a stranger with a recycled id."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    if sys.platform != "linux":
        listed = subprocess.run(["ps", "-o", "comm=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return "postgres" in listed.stdout
    # Postgres works in its data directory; a zombie works nowhere.
    try:
        return Path(f"/proc/{pid}/cwd").samefile(data)
    except FileNotFoundError:
        return False
    except PermissionError:
        # One of the data's own user would let that user look; of another user's server nothing can be said.
        return data.stat().st_uid != os.geteuid()

"""The face of the embedded Postgres: acquire, release, status."""

import os
import socket
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

from . import holders, keeper, postmaster
from .account import choose_account
from .binaries import find_binaries
from .errors import EmbeddedPostgresError
from .places import PORT, Places, url

_ANSWER_SECONDS = 60.0
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Status:
    """Whether the server runs (its process id, or None) and the process ids of those who hold it, one a hold."""

    pid: int | None
    holders: list[int]


class EmbeddedPostgres:
    """A Postgres 18 with its data in `folder`/postgres and its log in `folder`/postgres.log; making it does nothing.

    An object holds the server once at most, however often it is asked to; several objects and processes may hold one
    server. A forked child inherits no hold: it acquires its own. All methods block, and may be called from any thread.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guard = threading.Lock()
        self._hold: holders.Hold | None = None
        self._places: Places | None = None
        _all.add(self)

    def acquire(self) -> str:
        """Hold the server, started if it does not run, and return the postgresql:// URL of its database `perdure`.

        Called again, it starts a server that has died and returns the URL again. The first start on a folder takes
        about a second.

        Raises EmbeddedPostgresError if the wheel is missing or the server cannot run.
        """
        with self._guard:
            binaries = find_binaries()
            places = self._places or Places(Path(os.path.realpath(self.folder)))
            try:
                places.make()
                choose_account(places.data)  # refuses what the keeper would refuse, and sooner
                with holders.exclusively(places.lock) as lock:
                    return self._acquire(places, binaries, lock)
            except OSError as error:
                raise EmbeddedPostgresError(
                    f"The embedded database in {places.folder} did not start ({error}):"
                    " the folder has to be writable, on a disk that is not full."
                ) from error

    def _acquire(self, places: Places, binaries: Path, lock: int) -> str:
        hold = self._hold or holders.take(places.holders)
        try:
            address = _ensure_running(places, binaries, lock)
        except BaseException:
            if self._hold is None:
                hold.drop()
            raise
        self._hold, self._places = hold, places
        return address

    def release(self) -> None:
        """Drop the hold, if there is one; the last one out stops the server and returns when it is gone.

        Raises EmbeddedPostgresError if the server does not stop.
        """
        with self._guard:
            hold, places = self._hold, self._places
            if hold is None or places is None:
                return
            self._hold = self._places = None
            if not places.holders.exists():
                hold.drop()  # the folder was deleted under us; a server without its files ends by itself
                return
            with holders.exclusively(places.lock):
                hold.drop()
                if not holders.living(places.holders):
                    postmaster.stop(places.data)

    def status(self) -> Status:
        """Return whether the server runs and who holds it; waits for a start or stop that is under way."""
        places = Places(Path(os.path.realpath(self.folder)))
        if not places.holders.exists():
            return Status(None, [])
        with holders.exclusively(places.lock):
            server = postmaster.find_postmaster(places.data)
            return Status(server.pid if server else None, holders.living(places.holders))

    def _after_fork(self) -> None:
        """In a forked child: the hold is the parent's, and so is whatever thread had the guard."""
        self._guard = threading.Lock()
        if self._hold is not None:
            self._hold.forget()
            self._hold = self._places = None


def _ensure_running(places: Places, binaries: Path, lock: int) -> str:
    """Return the URL of the server, started by a new keeper if none runs; a server without a keeper gets one."""
    server = _settled(places)
    keeper_pass = holders.keeper_pass(places.keepers, needed=server is None)
    if keeper_pass is not None:
        try:
            keeper.launch(places, binaries, lock, keeper_pass)
        finally:
            os.close(keeper_pass)
        server = _settled(places)
    if server is None or server.socket_folder is None:
        raise EmbeddedPostgresError(f"The Postgres in {places.data} ended as soon as it had started: see {places.log}")
    _refuse_silent(places, server.pid, server.socket_folder)
    return url(server.socket_folder)


def _settled(places: Places) -> postmaster.Postmaster | None:
    """Return the running server, or None; one that somebody is stopping, as a system going down does, is waited for."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        server = postmaster.find_postmaster(places.data)
        if server is None or server.ready:
            return server
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(
                f"The Postgres of {places.data} (process {server.pid}) neither gets ready nor ends: see {places.log}"
            )
        time.sleep(_POLL_SECONDS)


def _refuse_silent(places: Places, pid: int, socket_folder: Path) -> None:
    """Raise EmbeddedPostgresError if nothing listens in the socket folder, as after somebody emptied it."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(socket_folder / f".s.PGSQL.{PORT}"))
    except OSError as error:
        raise EmbeddedPostgresError(
            f"The Postgres of {places.data} (process {pid}) runs and does not answer in {socket_folder}:"
            f" end it with kill -INT {pid}."
        ) from error


_all: "weakref.WeakSet[EmbeddedPostgres]" = weakref.WeakSet()


def _forget_all_holds() -> None:
    for server in list(_all):
        server._after_fork()


os.register_at_fork(after_in_child=_forget_all_holds)

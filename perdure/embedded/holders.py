"""Who holds the server: one file a hold, locked for as long as its process lives."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Hold:
    """One process's hold on the server: a locked file, named by the process."""

    file: Path
    descriptor: int

    def drop(self) -> None:
        """End the hold."""
        self.file.unlink(missing_ok=True)
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        os.close(self.descriptor)

    def forget(self) -> None:
        """In a forked child: let go of the parent's lock, which stays the parent's."""
        os.close(self.descriptor)


def take(holders: Path) -> Hold:
    """Add a hold of this process. The caller has the lock of `exclusively`, so that nobody takes it for dead."""
    file = holders / f"{os.getpid()}-{secrets.token_hex(4)}"
    descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    # It may wait a moment for a keeper in `wait_for_one`, which had it open before it was locked.
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return Hold(file, descriptor)


def living(holders: Path) -> list[int]:
    """Return the process id of every hold, and drop those whose process is dead.

    The caller has the lock of `exclusively`.
    """
    pids = []
    for file in _files(holders):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pids.append(int(file.name.partition("-")[0]))
        else:
            file.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
    return pids


def wait_for_one(holders: Path) -> None:
    """Sleep until one of the present holders is gone; return at once if there is none."""
    for file in _files(holders):
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        finally:
            os.close(descriptor)
        return


@contextlib.contextmanager
def exclusively(lock: Path) -> Iterator[int]:
    """Keep every other process out until the end of the block; the value is the locked descriptor.

    A keeper inherits the descriptor, and keeps them out should this process end, or leave the block by an exception,
    while the server starts: hence the lock is undone only where all went well, and closed otherwise.
    """
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # for a child forked meanwhile, too, which has a copy
    finally:
        os.close(descriptor)


def keeper_pass(keepers: Path, *, needed: bool) -> int | None:
    """Return a descriptor for a new keeper to inherit, which shows others that it lives.

    None if there is a keeper already and no other is `needed`.
    """
    descriptor = os.open(keepers, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not needed:
            os.close(descriptor)
            return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _files(holders: Path) -> list[Path]:
    try:
        return sorted(holders.iterdir())
    except FileNotFoundError:
        return []

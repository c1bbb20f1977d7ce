"""The operating system's user that the server runs as: oneself, but never root, which Postgres refuses."""

import ctypes
import os
import pwd
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import EmbeddedPostgresError

# The first of these that exists is chosen. An account of Perdure's own is the best separated from other servers;
# nobody is everywhere.
_ACCOUNTS = ("perdure", "postgres", "nobody")

_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 8, 47, 2
_CAPABILITY_VERSION_3, _CAP_DAC_OVERRIDE = 0x20080522, 1


@dataclass(frozen=True)
class Account:
    """A user to run the server as. `switch` is false if that is who runs already."""

    uid: int
    gid: int
    switch: bool

    def users(self) -> set[str]:
        """Return the names of those who may connect: root, who runs this process, and a person who owns the data."""
        names = {"root", _name(os.geteuid()), _name(self.uid)}
        # Other servers may run as the account that stands in for root; what it owns is not for them.
        return {name for name in names if name is not None} - (set(_ACCOUNTS) if self.switch else set())

    def own(self, path: Path) -> None:
        """Give the file or folder to the account."""
        if self.switch:
            os.chown(path, self.uid, self.gid)

    def process_options(self, *needed: Path) -> dict[str, Any]:
        """Return the options of `subprocess.Popen` that start a program as this user, able to reach the paths it needs.

        Where a folder above them is closed to the user, as root's home is, the program keeps one of root's powers, on
        Linux, to pass it.
        Only a process with no threads may use these options.
        """
        if not self.switch:
            return {}
        if not any(first_closed(path, self) for path in needed):
            return {"user": self.uid, "group": self.gid, "extra_groups": []}
        return {"preexec_fn": _become_with_reach(self)}


def oneself() -> Account:
    """Return the user that runs this process."""
    return Account(os.geteuid(), os.getegid(), switch=False)


def choose_account(data: Path) -> Account:
    """Return who the server on this data directory runs as: the owner of the data or, before they are made, oneself.

    For root it is an unprivileged account.

    Raises EmbeddedPostgresError if the data are another user's, or if root finds no account.
    """
    me = os.geteuid()
    owner = _owner(data)
    if me != 0:
        if owner is not None and owner.st_uid != me:
            raise EmbeddedPostgresError(
                f"The embedded database in {data} belongs to the user with id {owner.st_uid}, and this process runs as"
                f" {me}: run it as that user, or name another folder."
            )
        if _name(me) is None:
            raise EmbeddedPostgresError(
                f"The user id {me} has no name on this system, and Postgres does not run without: add an entry to"
                " /etc/passwd, run as a user that has one, or name a postgresql:// URL."
            )
        return oneself()
    if owner is not None and owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid, switch=True)
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, switch=True)
    raise EmbeddedPostgresError(
        f"Postgres does not run as root, and none of the accounts {', '.join(_ACCOUNTS)} exists here:"
        " add a user named perdure, run as an ordinary user, or name a postgresql:// URL."
    )


def first_closed(path: Path, account: Account) -> Path | None:
    """Return the outermost folder from the root to `path` that the account may not enter; None if it may enter all."""
    for folder in (*reversed(path.parents), path):
        found = folder.stat()
        if found.st_uid == account.uid:
            bit = stat.S_IXUSR
        elif found.st_gid == account.gid:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not found.st_mode & bit:
            return folder
    return None


def refuse_unreachable(account: Account, *needed: Path) -> None:
    """Raise EmbeddedPostgresError if a needed path is closed to the account and this system cannot let it pass."""
    if not account.switch or sys.platform == "linux":
        return
    for path in needed:
        closed = first_closed(path, account)
        if closed is not None:
            raise closed_error(closed)


def closed_error(closed: Path) -> EmbeddedPostgresError:
    """Return the error for a folder that keeps the server's account out."""
    return EmbeddedPostgresError(
        f"Postgres does not run as root, and the account it runs as may not enter {closed}:"
        " keep the database and the virtual environment where others may enter, or run as an ordinary user."
    )


def _name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _owner(data: Path) -> os.stat_result | None:
    try:
        return data.stat()
    except FileNotFoundError:
        return None


def _become_with_reach(account: Account) -> Callable[[], None]:
    """Return what a child process does to become the account and yet pass closed folders.

    It keeps CAP_DAC_OVERRIDE as an ambient capability, see capabilities(7).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    one = 1 << _CAP_DAC_OVERRIDE
    sets = (ctypes.c_uint32 * 6)(one, one, one, 0, 0, 0)  # effective, permitted, inheritable; then their upper halves

    def must(result: int) -> None:
        if result != 0:
            raise OSError(ctypes.get_errno(), "the capability cannot be kept")

    def become() -> None:
        must(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
        os.setgroups([])
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
        must(libc.capset(header, sets))
        must(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0))

    return become

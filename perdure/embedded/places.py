"""The files of an embedded Postgres, and the folder of its socket."""

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from .errors import EmbeddedPostgresError

PORT = 5432
SUPERUSER = "postgres"
DATABASE = "perdure"
# A socket's address holds 108 bytes on Linux and 104 on macOS, the last of them a zero.
_SOCKET_PATH_BYTES = 103
_TEMPORARY = "perdure-"


@dataclass(frozen=True)
class Places:
    """Everything one embedded Postgres keeps; `folder` is absolute."""

    folder: Path

    @property
    def data(self) -> Path:
        """What Postgres calls the data directory."""
        return self.folder / "postgres"

    @property
    def unfinished(self) -> Path:
        """Where a data directory is made, to be renamed when it is whole."""
        return self.folder / "postgres.new"

    @property
    def log(self) -> Path:
        """What Postgres and the keeper write on standard error."""
        return self.folder / "postgres.log"

    @property
    def lock(self) -> Path:
        """Locked while somebody starts, stops or counts."""
        return self.folder / "lock"

    @property
    def keepers(self) -> Path:
        """Locked, shared, by every keeper while it lives."""
        return self.folder / "keepers"

    @property
    def holders(self) -> Path:
        """A folder, one locked file a hold."""
        return self.folder / "holders"

    def make(self) -> None:
        """Make the folders that are missing.

        Raises EmbeddedPostgresError if that is impossible.
        """
        try:
            self.holders.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedPostgresError(
                f"The embedded database cannot keep its files in {self.folder} ({error.strerror}):"
                " name a folder that can be written."
            ) from error

    def socket_folder(self, former: Path | None, owner: int) -> Path:
        """Return a folder for the socket, private to the user id `owner`: inside `folder`, or a temporary one.

        A path that is too long for a socket's address will not do, nor one with a comma, which Postgres and libpq take
        as the end of a path. `former` is where a server that was killed had its socket: used again, if it is still
        private, so that none is left lying about.
        """
        inside = self.folder / "socket"
        if len(os.fsencode(_socket_in(inside))) <= _SOCKET_PATH_BYTES and "," not in str(inside):
            inside.mkdir(mode=0o700, exist_ok=True)
            inside.chmod(0o700)
            return inside
        if former is not None and is_temporary(former) and _is_private(former, owner):
            return former
        # A long TMPDIR would be no help.
        where = tempfile.gettempdir()
        longest = len(os.fsencode(_socket_in(Path(where, _TEMPORARY + "12345678"))))
        if longest > _SOCKET_PATH_BYTES or "," in where:
            where = "/tmp"
        return Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=where))


def url(socket_folder: Path) -> str:
    """Return the libpq URL of Perdure's database behind the socket in that folder."""
    # The port is named because PGPORT in the environment would change the socket's name.
    return f"postgresql://{SUPERUSER}@/{DATABASE}?host={quote(os.fsencode(socket_folder), safe='')}&port={PORT}"


def is_temporary(socket_folder: Path) -> bool:
    """Whether `Places.socket_folder` made it outside the database's own folder."""
    return socket_folder.name.startswith(_TEMPORARY)


def remove_sockets(socket_folder: Path) -> None:
    """Remove what a server that is gone left in its private socket folder."""
    for file in socket_folder.glob(".s.PGSQL.*"):
        file.unlink(missing_ok=True)


def _socket_in(folder: Path) -> Path:
    return folder / f".s.PGSQL.{PORT}"


def _is_private(folder: Path, owner: int) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == owner and stat.S_IMODE(found.st_mode) == 0o700

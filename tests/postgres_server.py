"""A Postgres of a test's own, from the programs of any version, that can be killed, restarted and copied."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from perdure.embedded import places
from perdure.embedded.account import choose_account

_START_SECONDS = 30.0
_ROOM = 2_000_000_000


def roomy_memory() -> str | None:
    """A file system in memory, where there is room for some servers: kill -9 loses nothing of it, and it is quick."""
    memory = "/dev/shm"
    return memory if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM else None


class PostgresServer:
    """A throw-away server in a folder of its own, on a private socket. For root it runs as an unprivileged account.

    Prepared transactions are on, for the tests of the settled mark.
    """

    def __init__(self, binaries: Path, data: Path | None = None, **settings: str) -> None:
        """``data``: where its data shall be, instead of inside its folder. ``settings`` as in postgresql.conf."""
        self.binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir=roomy_memory() or "/tmp"))
        self.data = data or self.folder / "data"
        self.log = self.folder / "log"
        self.settings = {"max_prepared_transactions": "10", "timezone": "UTC", **settings}
        self._account = choose_account(self.folder)
        self._account.own(self.folder)

    @property
    def url(self) -> str:
        """Of a database that always exists, for a superuser."""
        return f"postgresql://tester@/postgres?host={self.folder}&port={places.PORT}"

    @property
    def runs(self) -> bool:
        """Whether its first process lives."""
        try:
            return Path(f"/proc/{self.pid}/cwd").samefile(self.data)
        except FileNotFoundError:
            return False

    @property
    def pid(self) -> int:
        """Its first process."""
        return int((self.data / "postmaster.pid").read_text().splitlines()[0])

    def make(self, *options: str) -> None:
        """Make its data. ``options`` go to initdb."""
        always = ("-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        self.run("initdb", "-D", str(self.data), *always, *options)

    def copy_data(self, other: "PostgresServer") -> None:
        """Have the data of ``other``, which is stopped."""
        subprocess.run(["cp", "-a", "--reflink=auto", other.data, self.data], check=True)

    def move_data(self, to: Path) -> None:
        """Have its data in the folder ``to``, which is not there yet."""
        subprocess.run(["mv", self.data, to], check=True)
        self.data = to

    def move_wal(self, to: Path) -> None:
        """Have its write-ahead log in the empty folder ``to``."""
        wal = self.data / "pg_wal"
        subprocess.run(["cp", "-a", f"{wal}/.", to], check=True)
        shutil.rmtree(wal)
        wal.symlink_to(to)
        self._account.own(to)

    def start(self) -> str:
        """Start, made first if need be, and return the URL. Raises RuntimeError, with what it said, if it cannot."""
        if not (self.data / "PG_VERSION").exists():
            self.make()
        options = f"-h '' -k {self.folder} -p {places.PORT}"
        options += "".join(f" -c {name}='{value}'" for name, value in self.settings.items())
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.run("pg_ctl", "-D", str(self.data), "-l", str(self.log), "-o", options, "-w", "-s", "start")
                return self.url
            except RuntimeError as error:
                said = self.log.read_text()[-2000:] if self.log.exists() else ""
                # A killed server may leave processes at the end of their work, for which a new one has to wait.
                if not re.search("still in use|already exists", said) or time.monotonic() > deadline:
                    raise RuntimeError(f"{error}\n{said}") from error
                time.sleep(0.1)

    def stop(self, how: str = "fast") -> None:
        """Stop, and keep the data; one that does not run is stopped already."""
        if (self.data / "postmaster.pid").exists():
            with suppress(RuntimeError):
                self.run("pg_ctl", "-D", str(self.data), "-m", how, "-w", "-s", "stop")

    def kill(self) -> None:
        """End every process of it with -9, the first one first."""
        pid = self.pid
        others = self.processes()
        for each in (pid, *others):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        while Path(f"/proc/{pid}/cwd").exists():
            time.sleep(0.005)

    def kill_a_backend(self) -> None:
        """End the newest of its processes with -9, as the system does that has no memory left."""
        with suppress(ProcessLookupError, ValueError):
            os.kill(max(self.processes()), signal.SIGKILL)

    def processes(self) -> list[int]:
        """The children of its first process."""
        try:
            return [int(child) for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except FileNotFoundError:
            return []

    def become_standby(self) -> None:
        """When it starts next, it is in recovery, and waits for a primary."""
        (self.data / "standby.signal").touch()

    def remove(self) -> None:
        """Stop, and delete everything."""
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, program: str, *arguments: str, stdin: Path | None = None) -> None:
        """Run one of Postgres' programs as the server's account. Raises RuntimeError with what it said if it fails."""
        # Not a pipe: the server inherits it and would hold it open for as long as it lives.
        with (self.folder / "output").open("w+b") as output, Path(stdin or os.devnull).open("rb") as given:
            found = subprocess.run(
                [self.binaries / program, *arguments],
                cwd=self.folder,
                env={**{name: v for name, v in os.environ.items() if not name.startswith("PG")}, "LC_ALL": "C"},
                stdin=given,
                stdout=output,
                stderr=output,
                check=False,
                **self._account.process_options(self.folder, self.binaries),
            )
            output.seek(0)
            if found.returncode:
                raise RuntimeError(f"{program} failed: {output.read().decode(errors='replace')}")

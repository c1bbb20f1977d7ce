"""Debian's own Postgres, of the oldest version Perdure runs on: a server of the test session's, on a private socket."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

BINARIES = Path("/usr/lib/postgresql/15/bin")


class DebianPostgres:
    """A throw-away server in a folder of its own. Postgres refuses root, so for root it runs as ``postgres``."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pg15-"))
        self._data = self._folder / "data"
        self._account = "postgres" if os.geteuid() == 0 else None
        if self._account:
            shutil.chown(self._folder, self._account)

    def start(self) -> str:
        """Start, made first if need be, and return the URL of a database a superuser may use."""
        if not self._data.exists():
            self._run("initdb", "-D", self._data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        # What is thrown away needs no fsync. Prepared transactions are for the tests of the settled mark.
        options = f"-h '' -k {self._folder} -c fsync=off -c max_prepared_transactions=10 -c timezone=UTC"
        self._run("pg_ctl", "-D", self._data, "-l", self._folder / "log", "-o", options, "-w", "start")
        return f"postgresql://tester@/postgres?host={self._folder}"

    def stop(self) -> None:
        """Stop, and keep the data."""
        self._run("pg_ctl", "-D", self._data, "-m", "fast", "-w", "stop")

    def become_standby(self) -> None:
        """When it starts next, it is in recovery, and waits for a primary that never comes."""
        (self._data / "standby.signal").touch()

    def remove(self) -> None:
        """Delete the data of a stopped server."""
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str | Path) -> None:
        found = subprocess.run(
            [BINARIES / program, *arguments],
            user=self._account,
            group=self._account,
            extra_groups=[] if self._account else None,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            # Not a pipe: the server inherits it and would hold it open for as long as it lives.
            stdout=(output := (self._folder / "output").open("ab")),
            stderr=output,
            check=False,
        )
        output.close()
        if found.returncode:
            raise RuntimeError(f"{program} failed:\n{(self._folder / 'output').read_text()}")

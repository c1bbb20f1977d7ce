"""Making and starting the server. Used by the keeper alone, which is a process without threads."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import postmaster
from .account import Account, choose_account, closed_error, first_closed, oneself, refuse_unreachable
from .binaries import MAJOR
from .errors import EmbeddedPostgresError
from .places import DATABASE, PORT, SUPERUSER, Places, remove_sockets

_START_SECONDS = 300.0  # after a crash it reads the write-ahead log again
_POLL_SECONDS = 0.005
_LOG_BYTES = 10_000_000

# Written into postgresql.conf once, where a user may change them. fsync stays on.
_SETTINGS = {
    "shared_buffers": "128MB",
    "max_connections": "100",
    "max_prepared_transactions": "10",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",  # a line every five minutes says nothing here
}

_CREATE_DATABASE = f"""
SELECT 'CREATE DATABASE {DATABASE}' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{DATABASE}') \\gexec
"""


@dataclass(frozen=True)
class Cluster:
    """The server of these places, run from these binaries."""

    places: Places
    binaries: Path

    def start(self) -> None:
        """Start the server, made first if it is new; return when it takes connections and Perdure's database exists.

        Raises EmbeddedPostgresError, with the last line of the log, if that fails.
        """
        places = self.places
        account = choose_account(places.data)
        refuse_unreachable(account, places.folder, self.binaries)
        self._close_folder(account)
        if not places.data.exists():
            self._make(account)
        self._refuse_other_version()
        self._write_access_rules(account)
        former = postmaster.read_pid_file(places.data)
        socket_folder = places.socket_folder(former.socket_folder if former else None, account.uid)
        account.own(socket_folder)
        remove_sockets(socket_folder)
        postmaster.disown_stale(places.data)
        self._serve(account, socket_folder)
        try:
            self._create_database(socket_folder)
        except EmbeddedPostgresError:
            postmaster.stop(places.data)
            raise

    def _make(self, account: Account) -> None:
        """Make the data directory beside its place and move it there when whole: a crash leaves all or nothing."""
        unfinished = self.places.unfinished
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        account.own(unfinished)
        settings = dict(_SETTINGS)
        if "--with-lz4" in self._run(oneself(), "pg_config", "--configure"):
            settings["wal_compression"] = "lz4"
        # C.UTF-8 of Postgres's own, which needs no locale of the system and sorts the same everywhere.
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        chosen = [f"--set={name}={value}" for name, value in settings.items()]
        self._run(account, "initdb", f"--username={SUPERUSER}", "--auth=peer", *locale, *chosen, "-D", str(unfinished))
        unfinished.rename(self.places.data)
        # By hand: the keeper sees nothing but this package and the standard library.
        descriptor = os.open(self.places.folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def _close_folder(self, account: Account) -> None:
        """Keep other processes of the server's account out of the folder, if the server is to have a power of root's.

        Who could change its configuration would have that power, too.
        """
        if account.switch and any(first_closed(path, account) for path in (self.places.folder, self.binaries)):
            self.places.folder.chmod(0o700)

    def _refuse_other_version(self) -> None:
        try:
            version = (self.places.data / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            raise EmbeddedPostgresError(
                f"{self.places.data} is not a data directory of Postgres, for it has no file PG_VERSION: move it away,"
                " or name another folder."
            ) from None
        if version != MAJOR:
            raise EmbeddedPostgresError(
                f"The data in {self.places.data} were written by Postgres {version}, and this Perdure runs Postgres"
                f" {MAJOR}: dump them with Postgres {version} and load them into a new folder, or install the Perdure"
                " that wrote them."
            )

    def _write_access_rules(self, account: Account) -> None:
        """Let in, over the socket, the users who are named, each told by the kernel; nobody else."""
        rules = {
            "pg_hba.conf": ["local all all peer map=perdure"],
            "pg_ident.conf": [f'perdure "{user}" {SUPERUSER}' for user in sorted(account.users())],
        }
        for name, lines in rules.items():
            file = self.places.data / name
            file.write_text("\n".join(["# Written by Perdure at every start.", *lines, ""]))
            account.own(file)

    def _serve(self, account: Account, socket_folder: Path) -> None:
        """Start the server as a child of this process and wait until it is ready."""
        command = [str(self.binaries / "postgres"), "-D", str(self.places.data)]
        fixed = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": str(socket_folder),
            "unix_socket_permissions": "0700",
        }
        for name, value in fixed.items():
            command += ["-c", f"{name}={value}"]
        deadline = time.monotonic() + _START_SECONDS
        while True:
            from_here = self.places.log.stat().st_size
            try:
                self._serve_once(command, account, deadline)
                return
            except EmbeddedPostgresError:
                # A killed server may leave processes at the end of their work, for which a new one has to wait.
                if "is still in use" not in self._log_since(from_here) or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _serve_once(self, command: list[str], account: Account, deadline: float) -> None:
        from_here = self.places.log.stat().st_size
        with self.places.log.open("ab") as log:
            process = self._popen(command, account, stdout=log, stderr=log)
        while True:
            found = postmaster.read_pid_file(self.places.data)
            if found is not None and found.pid == process.pid and found.ready:
                break
            if process.poll() is not None:
                said = _telling_line(self._log_since(from_here))
                raise EmbeddedPostgresError(
                    f"Postgres did not start on {self.places.data}: {said} (more in {self.places.log})"
                )
            if time.monotonic() > deadline:
                process.send_signal(signal.SIGQUIT)
                process.wait()
                raise EmbeddedPostgresError(
                    f"Postgres was not ready on {self.places.data} after {_START_SECONDS:.0f} seconds:"
                    f" see {self.places.log}"
                )
            time.sleep(_POLL_SECONDS)

    def _create_database(self, socket_folder: Path) -> None:
        where = ["-h", str(socket_folder), "-p", str(PORT), "-U", SUPERUSER, "-d", "postgres"]
        self._run(oneself(), "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *where, stdin=_CREATE_DATABASE)

    def _run(self, account: Account, program: str, *arguments: str, stdin: str = "") -> str:
        """Run a program to its end and return its standard output; its standard error becomes the error's sentence."""
        command = [str(self.binaries / program), *arguments]
        process = self._popen(command, account, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, errors = process.communicate(stdin.encode())
        if process.returncode != 0:
            said = _telling_line(errors.decode(errors="replace"))
            raise EmbeddedPostgresError(f"{program} failed for the embedded database in {self.places.folder}: {said}")
        return output.decode(errors="replace")

    def _popen(self, command: list[str], account: Account, **streams: object) -> "subprocess.Popen[bytes]":
        options = {"stdin": subprocess.DEVNULL, **streams, **account.process_options(self.places.folder, self.binaries)}
        try:
            return subprocess.Popen(command, env=_environment(), cwd="/", **options)
        except (subprocess.SubprocessError, PermissionError) as error:
            closed = first_closed(self.binaries, account) or first_closed(self.places.folder, account)
            if closed is None:
                raise EmbeddedPostgresError(
                    f"{command[0]} cannot be run as the user with id {account.uid}: {error}"
                ) from error
            raise closed_error(closed) from error

    def _log_since(self, offset: int) -> str:
        with self.places.log.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")


def open_log(places: Places) -> int:
    """Return a descriptor to append to the log; one of more than 10 MB is put aside first, as postgres.log.1."""
    with contextlib.suppress(FileNotFoundError):
        if places.log.stat().st_size > _LOG_BYTES:
            places.log.replace(places.log.with_suffix(".log.1"))
    return os.open(places.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)


def _environment() -> dict[str, str]:
    """Return this process's environment without what would change the server's or psql's ways, in words or in place."""
    kept = {name: value for name, value in os.environ.items() if not re.match(r"PG|LC_|LANG", name)}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def _telling_line(text: str) -> str:
    """Return the last line that tells of a full disk or, if there is none, of an error; else the last line of all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for sign in (r"No space left on device", r"\b(PANIC|FATAL|ERROR|error):", ""):
        telling = [line for line in lines if re.search(sign, line)]
        if telling:
            return telling[-1]
    return "it wrote nothing on its standard error"

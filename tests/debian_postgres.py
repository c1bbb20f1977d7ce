"""Debian's own Postgres, of the oldest version Perdure runs on: a server of the test session's, on a private socket."""

from pathlib import Path

from postgres_server import PostgresServer

BINARIES = Path("/usr/lib/postgresql/15/bin")


class DebianPostgres(PostgresServer):
    """What is thrown away needs no fsync."""

    def __init__(self) -> None:
        super().__init__(BINARIES, fsync="off")

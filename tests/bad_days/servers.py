"""Servers for the bad days: their data made and migrated once, and copied for each that is asked for. fsync is on."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from debian_postgres import BINARIES as DEBIAN
from postgres_server import PostgresServer

from perdure.embedded.binaries import find_binaries
from perdure.migrate import migrate
from perdure_eventstore.database import open_engine

Version = Literal["newest", "15"]
VERSIONS: tuple[Version, ...] = ("newest", "15")


def binaries(version: Version) -> Path:
    """Where the programs of that Postgres are, installed or not."""
    return find_binaries() if version == "newest" else DEBIAN


async def _migrate(url: str) -> None:
    engine = open_engine(url)
    try:
        await migrate(engine)
    finally:
        await engine.dispose()


class Servers:
    """Makes servers with a migrated database. Close it to delete what they were copied from."""

    def __init__(self) -> None:
        self._templates: dict[Version, PostgresServer] = {}
        self._stack = ExitStack()

    def close(self) -> None:
        self._stack.close()

    @contextmanager
    def running(self, version: Version, **settings: str) -> Iterator[PostgresServer]:
        """A started server of one's own, gone at the end."""
        with self.stopped(version, **settings) as server:
            server.start()
            yield server

    @contextmanager
    def stopped(self, version: Version, **settings: str) -> Iterator[PostgresServer]:
        """The same before its first start."""
        server = PostgresServer(binaries(version), None, **settings)
        try:
            server.copy_data(self._template(version))
            yield server
        finally:
            server.remove()

    def _template(self, version: Version) -> PostgresServer:
        if version not in self._templates:
            server = PostgresServer(binaries(version), fsync="off")
            self._stack.callback(server.remove)
            asyncio.run(_migrate(server.start()))
            server.stop()
            self._templates[version] = server
        return self._templates[version]

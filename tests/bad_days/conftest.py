"""A server of a test's own, on every Postgres there is here, and a parent of processes."""

from collections.abc import Iterator

import pytest
from acceptance.forks import ForkServer, fork_server
from bad_days.servers import VERSIONS, Servers, Version, binaries
from postgres_server import PostgresServer


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> Version:
    """Each version of Postgres in turn."""
    chosen: Version = request.param
    if not binaries(chosen).is_dir():
        pytest.skip("Debian's postgresql-15 is not installed")
    return chosen


@pytest.fixture
def server(servers: Servers, version: Version) -> Iterator[PostgresServer]:
    """A running server with a migrated database, of each version in turn; fsync is on."""
    with servers.running(version) as server:
        yield server


@pytest.fixture
def newest_server(servers: Servers) -> Iterator[PostgresServer]:
    """The same of the newest version alone."""
    with servers.running("newest") as server:
        yield server


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("forks"), "bad_days.writer", "bad_days.reader") as server:
        yield server

"""A few seconds of ``scripts/chaos log`` and of ``scripts/chaos node``, on each Postgres there is here."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from acceptance.forks import ForkServer, fork_server
from bad_days.chaos import Chaos
from bad_days.node_chaos import NodeChaos
from bad_days.servers import Servers, Version

SECONDS = 2.0


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(
        tmp_path_factory.mktemp("forks"), "bad_days.writer", "bad_days.reader", "bad_days.node_life"
    ) as server:
        yield server


def test_whatever_happens_to_processes_and_server_the_log_keeps_what_it_said(
    version: Version, servers: Servers, forks: ForkServer, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    with servers.running(version) as server:
        verdict = Chaos(server, forks, tmp_path, seed, longest_freeze=1.0).run(SECONDS, writers=4)
    assert verdict.findings == []
    assert verdict.counts["appends acknowledged"] > 0


def test_whatever_happens_to_nodes_and_server_each_run_ends_as_its_definition_says(
    version: Version, servers: Servers, forks: ForkServer, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    with servers.running(version) as server:
        verdict = NodeChaos(server, forks, tmp_path, seed, runs=40).run(3 * SECONDS)
    assert verdict.findings == [], "\n".join([*verdict.findings, *verdict.stories])
    assert verdict.counts["handlers called"] > 0

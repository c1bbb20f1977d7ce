"""Two processes race on one stream. A minute of it: ``scripts/chaos log --race``."""

import random
from pathlib import Path

from acceptance.forks import ForkServer
from bad_days.race import ENOUGH, race
from postgres_server import PostgresServer

SECONDS = 2.0


def test_every_version_has_one_winner_and_every_loser_is_told(
    server: PostgresServer, forks: ForkServer, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    verdict = race(server.url, forks, tmp_path, seed, SECONDS)
    assert verdict.findings == []
    for racer in ("racer-0", "racer-1"):
        assert verdict.counts[f"appends acknowledged of {racer}"] > ENOUGH
        assert verdict.counts[f"appends refused of {racer}"] > ENOUGH
        assert verdict.counts[f"appends unknown of {racer}"] == 0

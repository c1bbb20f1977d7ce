"""Every test that docs/guarantees.md names exists, and every file that docs/architecture.md names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[^`:\s]+)(?:::(\w+))?`", GUARANTEES)))
HOMES = {
    "perdure_eventstore": ROOT / "eventstore" / "perdure_eventstore",
    "perdure_engine": ROOT / "engine" / "perdure_engine",
    "perdure_projections": ROOT / "projections" / "perdure_projections",
    "perdure": ROOT / "perdure",
}
TABLES = re.findall(r"^\*\*`(\w+)`\*\*\n\n((?:\|.*\n)+)", ARCHITECTURE, re.MULTILINE)
FILES = [
    (package, name)
    for package, table in TABLES
    for row in table.splitlines()
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", row.split("|")[1])
]


@pytest.mark.parametrize(("file", "name"), NAMED, ids="::".join)
def test_a_test_that_holds_a_promise_exists(file: str, name: str) -> None:
    path = ROOT / file
    assert path.exists()
    assert not name or re.search(rf"^\s*(async )?def {name}\(", path.read_text(), re.MULTILINE)


def test_a_promise_has_a_test_or_says_that_it_has_none() -> None:
    rows = [row for row in GUARANTEES.splitlines() if row.startswith("|") and not row.startswith(("| promise", "|---"))]
    assert [row for row in rows if "`tests/" not in row and "| no test yet |" not in row] == []


@pytest.mark.parametrize("package", HOMES)
def test_the_table_of_files_is_whole(package: str) -> None:
    home, named = HOMES[package], {name for owner, name in FILES if owner == package}
    modules = {path.name for path in home.glob("*.py")} - {"__init__.py"}
    folders = {f"{path.name}/" for path in home.iterdir() if (path / "__init__.py").exists()}
    assert named == modules | folders

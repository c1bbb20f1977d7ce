"""docs/audit.md: its commands run as they stand, one after another; and what export and import say of what is wrong."""

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import environment, perdure, running_server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "audit.md").read_text()
COMMANDS = re.findall(
    r"^(?:PERDURE_\w+=\S+ )*perdure .*$", "\n".join(re.findall(r"^```\n(.*?)^```$", PAGE, re.M | re.S)), re.M
)
EXAMPLE = ROOT / "examples" / "user_registration.json"
DATA = '{"user_email": "ada@example.org", "user_data": {"name": "Ada", "kept": [1.10, 1e16, -0.0]}}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose database has a run. Its servers are held: no command has to start one."""
    folder = tmp_path_factory.mktemp("audit")
    with running_server(folder / ".perdure"), running_server(folder / "elsewhere"):
        done = perdure(folder, "run", str(EXAMPLE), "--event", "user_registered", "--data", DATA, "--json")
        assert done.status == 0, done.err
        yield folder


def shell(folder: Path, command: str) -> "subprocess.CompletedProcess[str]":
    """``command`` as somebody types it."""
    bin_ = folder / "bin"
    bin_.mkdir(exist_ok=True)
    (bin_ / "perdure").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m perdure "$@"\n')
    (bin_ / "perdure").chmod(0o755)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env=environment(PATH=f"{bin_}:{os.environ['PATH']}"), stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_every_command_of_the_page_does_what_it_says(folder: Path) -> None:
    assert len(COMMANDS) == 11
    said = {}
    for command in COMMANDS:
        done = shell(folder, command)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        said[command] = done.stdout + done.stderr
    checked = next(text for command, text in said.items() if "--public-key" in command)
    assert "the bundle is whole: 8 events of run" in checked and "signed with the key you gave" in checked
    last = said[COMMANDS[-1]]
    assert "0 events imported" in last and "9 were there already" in last
    here, there = (perdure(folder, "history", "last", "--json", *where).out.splitlines()
                   for where in ((), ("--database", "embedded:elsewhere")))  # fmt: skip
    assert here == there and "[1.10, 1e16, -0.0]" in here[0]
    assert perdure(folder, "verify", "--database", "embedded:elsewhere").status == 0


def test_machines_get_one_line(folder: Path) -> None:
    (exported,) = perdure(folder, "export", "--all", "--json", "--output", "all.jsonl").lines
    assert (exported["events"], exported["streams"], exported["output"]) == (11, 3, "all.jsonl")
    (imported,) = perdure(folder, "import", "all.jsonl", "--json").lines
    assert imported == {"log": exported["log"], "events": 0, "streams": 0, "skipped": 11}
    (bundled,) = perdure(folder, "export", "last", "--json", "--bundle", "a.bundle").lines
    (checked,) = perdure(folder, "verify", "--json", "--bundle", "a.bundle").lines
    assert (bundled["root"], bundled["size"]) == (checked["root"], checked["size"])
    assert checked["trusted"] is False


def test_on_standard_output_stands_the_export_and_nothing_else(folder: Path) -> None:
    lines = [json.loads(line) for line in perdure(folder, "export", "last").out.splitlines()]
    assert lines[0]["perdure"] == "export" and lines[-1]["perdure"] == "end"
    assert len(lines) == lines[-1]["events"] + 2 == 11
    alone = perdure(folder, "export", "last", "--no-definitions", "--format", "cloudevents").out.splitlines()
    assert len(alone) == 10 and all(json.loads(line)["specversion"] == "1.0" for line in alone)


def test_a_part_is_taken_by_position_or_by_time(folder: Path) -> None:
    def positions(*options: str) -> list[int]:
        lines = perdure(folder, "export", *options).out.splitlines()
        return [json.loads(line)["position"] for line in lines[1:-1]]

    everything = positions("--all")
    assert everything == list(range(1, 12))
    assert positions("--since", "p3", "--until", "p7") == [4, 5, 6, 7]
    moments = [json.loads(line)["recorded_at"] for line in perdure(folder, "export", "--all").out.splitlines()[1:-1]]
    fifth = next(at for at in everything if moments[at - 1] >= moments[4])
    assert positions("--since", moments[4]) == everything[fifth - 1 :]
    assert positions("--until", moments[4]) == everything[: fifth - 1]
    assert positions("--since", "2999-01-01") == []


def test_a_file_that_fails_leaves_what_was_there(folder: Path) -> None:
    (folder / "kept.jsonl").write_text("kept")
    assert perdure(folder, "export", "ffffffff-ffff-4fff-8fff-ffffffffffff", "--output", "kept.jsonl").status == 2
    assert (
        perdure(
            folder, "export", "--all", "--output", "kept.jsonl", "--database", "postgresql://nobody@127.0.0.1:1/x"
        ).status
        == 4
    )
    assert (folder / "kept.jsonl").read_text() == "kept"
    assert not list(folder.glob("*.part"))


def test_what_is_wrong_is_said_in_one_sentence(folder: Path, subtests: pytest.Subtests) -> None:
    whole = perdure(folder, "export", "--all").out
    (folder / "cut.jsonl").write_text(whole[:-200])
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(whole.encode())[:-30])
    (folder / "changed.jsonl").write_text(whole.replace('"kept": [1.10', '"kept": [1.1'))
    (folder / "other.json").write_text('{"a": 1}\n')
    for arguments, status, sentence in [
        (("import", "cut.jsonl", "--database", "embedded:new"), 1, r"line 1[23]: .*cut"),
        (("import", "cut.jsonl.gz", "--database", "embedded:new"), 1, r"line \d+: the compressed file is cut"),
        (("import", "changed.jsonl", "--database", "embedded:new"), 1, r"line 3: the payload of version 1"),
        (("import", "other.json", "--database", "embedded:new"), 1, "line 1: no export of Perdure's"),
        (("import", "nowhere.jsonl"), 2, "nowhere.jsonl cannot be read: No such file"),
        (("verify", "--bundle", "other.json"), 1, "line 1: no bundle of Perdure's"),
        (("export",), 2, "say what to export"),
        (("export", "last", "--all"), 2, "either RUN… or --all"),
        (("export", "last", "--format", "xml"), 2, "--format takes jsonl or cloudevents"),
        (("export", "--since", "yesterday"), 2, "--since takes a time such as"),
        (("export", "--all", "--output", "no/such/folder"), 2, "no/such/folder cannot be written"),
        (("export", "--bundle", "x"), 2, "a bundle holds one run"),
    ]:
        with subtests.test(" ".join(arguments)):
            done = perdure(folder, *arguments)
            said = [line for line in done.err.splitlines() if "the database is embedded:" not in line]
            assert done.status == status, done.err
            assert re.search(sentence, done.err), done.err
            assert len(said) == 1 and done.out == ""
    assert perdure(folder, "export", "--all", "--database", "embedded:new").out.count("\n") == 2

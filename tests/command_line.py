"""Real ``perdure`` processes for the tests."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

PERDURE = (sys.executable, "-m", "perdure")


class Answer(NamedTuple):
    """What a process gave back."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Standard output as JSON Lines; fails where anything else stands on it."""
        return [json.loads(line) for line in self.out.splitlines()]


def environment(**more: str) -> dict[str, str]:
    """The environment without settings of Perdure's, and with ``more``."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "COLUMNS"))}
    return plain | more


def perdure(folder: Path, *arguments: str, stdin: str | bytes = b"", **settings: str) -> Answer:
    """Run one command in ``folder`` to its end."""
    done = subprocess.run(
        [*PERDURE, *arguments],
        cwd=folder,
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        env=environment(**settings),
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())


def started(folder: Path, *arguments: str, **settings: str) -> "subprocess.Popen[str]":
    """A command that goes on running; its standard output can be read line by line."""
    return subprocess.Popen(
        [*PERDURE, *arguments],
        cwd=folder,
        env=environment(**settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

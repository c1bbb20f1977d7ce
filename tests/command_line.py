"""Real ``perdure`` processes for the tests.

``perdure`` forks its processes from a warm parent, which has the imports behind it: a second of work each.
``started`` begins from nothing, as in a shell.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from acceptance.forks import ForkServer

from perdure import cli
from perdure.embedded import EmbeddedPostgres

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


@contextmanager
def running_server(folder: Path) -> Iterator[None]:
    """The embedded server of ``folder``, held so that commands find it running."""
    server = EmbeddedPostgres(folder)
    server.acquire()
    try:
        yield
    finally:
        server.release()


def perdure(folder: Path, *arguments: str, stdin: str | bytes = b"", **settings: str) -> Answer:
    """Run one command in ``folder`` to its end."""
    warm = _warm()
    place = warm.place / str(next(warm.numbers))
    place.mkdir()
    (place / "in").write_bytes(stdin.encode() if isinstance(stdin, str) else stdin)
    warm.server.fork(
        _run, place=str(place), folder=str(folder), arguments=arguments, settings=environment(**settings)
    ).wait(60.0)
    return Answer(int((place / "status").read_text()), (place / "out").read_text(), (place / "err").read_text())


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


class _Warm(NamedTuple):
    server: ForkServer
    place: Path
    numbers: "count[int]"


@cache
def _warm() -> _Warm:
    place = tempfile.TemporaryDirectory(prefix="perdure-commands-")
    server = ForkServer(Path(place.name), "command_line", *_modules())
    atexit.register(place.cleanup)
    atexit.register(server.close)
    return _Warm(server, Path(place.name), count())


def _modules() -> list[str]:
    """What the verbs import when they are called."""
    folder = Path(cli.__file__).parent
    return sorted(f"perdure.cli.{file.stem}" for file in folder.glob("[a-z]*.py"))


def _run(place: str, **rest: Any) -> None:
    """What the child does: it waits for one of its own, to whose exit status nothing is added."""
    if not (pid := os.fork()):
        _become(place, **rest)
    Path(place, "status").write_text(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


def _become(place: str, folder: str, arguments: list[str], settings: dict[str, str]) -> NoReturn:
    """Do as ``python -m perdure`` would, with files for the standard streams."""
    written = os.O_CREAT | os.O_WRONLY
    for number, (name, flags) in enumerate({"in": os.O_RDONLY, "out": written, "err": written}.items()):
        os.dup2(os.open(f"{place}/{name}", flags, 0o600), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(settings)
    sys.argv[1:] = arguments
    # An application is looked for where the command is given.
    sys.path.insert(0, folder)
    status: Any = 1
    try:
        cli.main()
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(status)

"""Processes at the price of a fork: a warm parent imports everything once, and forks a child for each that is asked.

The parent never has an event loop or a thread, so its children begin clean. They are real processes: they are killed
with -9, frozen, and looked at from outside.
"""

import asyncio
import importlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

TESTS = Path(__file__).parent.parent


class Child:
    """A forked process. What it writes is in ``output``."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid, self._log = pid, log
        self._handle: int | None = None
        with suppress(ProcessLookupError):
            self._handle = os.pidfd_open(pid)

    @property
    def output(self) -> str:
        """What it has written so far."""
        # One that was killed as it began has no file.
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still lives."""
        if self._handle is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """End it with -9, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait(10.0)

    def has_ended(self, seconds: float = 0.0) -> bool:
        """Whether it has ended, or does so within ``seconds``."""
        if self._handle is None:
            return True
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        os.close(self._handle)
        self._handle = None
        return True

    def wait(self, seconds: float) -> None:
        """Wait for its end. Fails with its output when that does not come."""
        assert self.has_ended(seconds), f"process {self.pid} still runs after {seconds} s:\n{self.output}"


class ForkServer:
    """The warm parent."""

    def __init__(self, folder: Path, *modules: str) -> None:
        self._folder, self._children, self._guard = folder, list[Child](), threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "acceptance.forks", *modules],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def fork(self, function: Callable[..., Any], **arguments: Any) -> Child:
        """Call ``function`` of a module (an async one in an event loop) in a child of its own."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._guard:
            log = self._folder / f"child-{len(self._children)}.log"
            target = f"{function.__module__}:{function.__qualname__}"
            self._process.stdin.write(orjson.dumps([target, str(log), arguments]) + b"\n")
            self._process.stdin.flush()
            child = Child(int(self._process.stdout.readline()), log)
            self._children.append(child)
        return child

    def end_children(self) -> None:
        """End with -9 whatever still lives."""
        for child in self._children:
            child.kill()

    def close(self) -> None:
        """End the children that are left, and the parent."""
        self.end_children()
        self._process.communicate(timeout=30)


@contextmanager
def fork_server(folder: Path, *modules: str) -> Iterator[ForkServer]:
    """A warm parent that has imported ``modules``."""
    server = ForkServer(folder, *modules)
    try:
        yield server
    finally:
        server.close()


def until(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
    """Poll until ``condition()`` is true, and return it; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"after {seconds} s: {what}"
        time.sleep(0.01)
    return found


def _serve(modules: list[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    # Children are reaped by the system: nobody here waits for them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while request := sys.stdin.buffer.readline():
        target, log, arguments = orjson.loads(request)
        pid = os.fork()
        if pid == 0:
            _child(target, log, arguments)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _child(target: str, log: str, arguments: dict[str, Any]) -> None:
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, wanted in ((nothing, 0), (descriptor, 1), (descriptor, 2)):
            os.dup2(source, wanted)
        module, _, name = target.partition(":")
        function = getattr(importlib.import_module(module), name)
        answer = function(**arguments)
        if asyncio.iscoroutine(answer):
            asyncio.run(answer)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1:])

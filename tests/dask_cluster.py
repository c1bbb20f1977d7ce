"""A Dask scheduler and its workers, each a process, ended by id."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from distributed import Client

ROOT = Path(__file__).parent.parent

PATH = os.pathsep.join([str(ROOT / "tests"), *(path for path in sys.path if path)])
"""Workers import Perdure and the tests' handlers."""


class DaskCluster:
    """A scheduler on loopback and workers beside it. Without nannies: who is killed stays dead."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = _free_port()
        self.address = f"tcp://127.0.0.1:{self._port}"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.start_scheduler()

    def start_scheduler(self) -> "subprocess.Popen[bytes]":
        """A scheduler at the address."""
        given = "--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard", "--no-show"
        self.scheduler = self._run("scheduler", *given)
        return self.scheduler

    def add_worker(self, *more: str, threads: int = 2) -> "subprocess.Popen[bytes]":
        """One more worker; it looks for the scheduler by itself."""
        given = "--host", "127.0.0.1", "--nthreads", str(threads), "--no-nanny", "--no-dashboard", *more
        worker = self._run("worker", self.address, "--local-directory", str(self._folder), *given)
        self.workers.append(worker)
        return worker

    def alive(self) -> "list[subprocess.Popen[bytes]]":
        """The workers that were not killed and did not leave."""
        return [worker for worker in self.workers if worker.poll() is None]

    def wait_for_workers(self) -> None:
        """Until the scheduler knows all that are alive."""
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(len(self.alive()), timeout=30)

    def kill_worker(self, process: int) -> None:
        """With -9, by the id that it noted."""
        kill(next(worker for worker in self.workers if worker.pid == process))

    def close(self) -> None:
        """Kill all of it."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def _run(self, what: str, *given: str) -> "subprocess.Popen[bytes]":
        with (self._folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{what}", *given],
                stdout=log, stderr=log, cwd=self._folder, env={**os.environ, "PYTHONPATH": PATH},
            )  # fmt: skip


def kill(process: "subprocess.Popen[bytes]") -> None:
    """With -9."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

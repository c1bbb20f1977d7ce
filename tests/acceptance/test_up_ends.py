"""``perdure up`` ends when it is told to, whatever its handlers do, and takes its processes along."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from command_line import perdure, started

DEAF = """
import asyncio, os, pathlib, time
from concurrent.futures import ProcessPoolExecutor
import perdure

app = perdure.App(settings=perdure.Settings(stop=1.0))

@app.task()
async def swallows():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

@app.task()
async def leaves_a_thread():
    await asyncio.to_thread(time.sleep, 60)

@app.task()
def sleeps():
    time.sleep(60)

def computes():
    pathlib.Path("worker").write_text(str(os.getpid()))
    time.sleep(60)

app.task(executor=ProcessPoolExecutor(1))(computes)
"""


@contextmanager
def deaf_node(folder: Path, url: str, handler: str) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """A node, and the run for which it executes a handler of DEAF."""
    (folder / "deaf.py").write_text(DEAF)
    document = {"workflow_id": "w", "tasks": [{"task_id": "a", "type": handler, "triggers": []}]}
    given = {"PERDURE_DATABASE_URL": url}
    (folder / "w.json").write_text(json.dumps(document))
    assert perdure(folder, "register", "w.json", "--app", "deaf", **given).status == 0
    (run,) = perdure(folder, "start", "w", "--json", **given).lines
    with started(folder, "up", "--app", "deaf", **given) as node:
        with psycopg.connect(url, autocommit=True) as connection:
            while connection.execute("select from perdure.events where type = 'TaskStarted'").fetchone() is None:
                assert node.poll() is None
        try:
            yield node, run["run_id"]
        finally:
            node.kill()


@pytest.mark.parametrize(
    ("handler", "named"),
    [
        ("swallows", "swallows, task a of run {run}"),
        ("leaves_a_thread", "a thread of asyncio.to_thread()"),
        ("sleeps", "sleeps, in a thread"),
    ],
)
def test_up_ends_though_a_handler_does_not_and_names_it(
    tmp_path: Path, database_url: str, handler: str, named: str
) -> None:
    with deaf_node(tmp_path, database_url, handler) as (node, run):
        node.terminate()
        _, errors = node.communicate(timeout=20)
    assert node.returncode == 0, errors
    assert f"not waited for, it went on though it was told to end: {named.format(run=run)}" in errors
    with psycopg.connect(database_url) as connection:
        types = [row[0] for row in connection.execute("select type from perdure.events where stream = %s", (run,))]
        assert types[-2:] == ["TaskInterrupted", "TaskScheduled"]


def test_up_leaves_no_process_of_a_pool_behind(tmp_path: Path, database_url: str) -> None:
    with deaf_node(tmp_path, database_url, "computes") as (node, _):
        until_there(tmp_path / "worker")
        node.terminate()
        _, errors = node.communicate(timeout=20)
    assert node.returncode == 0, errors
    until_gone(int((tmp_path / "worker").read_text()))


def test_a_signal_to_a_process_of_a_pool_stops_that_process_alone(tmp_path: Path, database_url: str) -> None:
    with deaf_node(tmp_path, database_url, "computes") as (node, _):
        worker = until_there(tmp_path / "worker")
        # Ctrl-C in a terminal reaches it as well as the node: to the node it is one signal and not two.
        os.kill(worker, signal.SIGINT)
        os.kill(worker, signal.SIGTERM)
        until_gone(worker)
        assert node.poll() is None
        node.terminate()
        assert node.wait(timeout=20) == 0


def until_there(file: Path) -> int:
    """The number in a file that somebody is about to write."""
    while not file.exists() or not file.read_text():
        time.sleep(0.02)
    return int(file.read_text())


def until_gone(pid: int) -> None:
    """Wait until the process has ended; its parent may not have looked yet."""
    by = time.monotonic() + 10
    while (state := Path(f"/proc/{pid}/stat")).exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < by, f"process {pid} goes on"
        time.sleep(0.02)

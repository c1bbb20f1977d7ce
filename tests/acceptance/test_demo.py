"""The demo: it tells its story without a terminal, twice in one folder, and leaves no server behind."""

import signal
import time
from pathlib import Path

from command_line import perdure, started

from perdure.embedded import EmbeddedPostgres


def test_the_story_is_told_and_nothing_is_left_running(tmp_path: Path) -> None:
    told = perdure(tmp_path, "demo", "--json")
    assert told.status == 0, told.err
    _, report = told.lines[0]["runs"]
    assert EmbeddedPostgres(tmp_path / ".perdure-demo").status().pid is None
    history = perdure(tmp_path, "history", report, "--json", "--database", "embedded:.perdure-demo").lines
    interrupted = [event["data"] for event in history if event["type"] == "TaskInterrupted"]
    assert [(data["task_id"], data["attempt"], data.get("clean", False)) for data in interrupted] == [
        ("count", 1, False)
    ]
    assert history[-1]["type"] == "RunCompleted"


def test_ctrl_c_stops_its_node_and_its_server(tmp_path: Path) -> None:
    with started(tmp_path, "demo") as demo:
        assert demo.stdout is not None
        while "a node runs as process" not in demo.stdout.readline():
            assert demo.poll() is None
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=20)
    assert demo.returncode == 130
    server, deadline = EmbeddedPostgres(tmp_path / ".perdure-demo"), time.monotonic() + 5
    while server.status().pid is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)

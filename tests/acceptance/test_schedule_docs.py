"""docs/schedules.md: its programs and its commands run as they stand, one after another, and do what it says."""

import asyncio
import json
import os
import re
import shlex
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from applications import recorder
from command_line import Answer, perdure, running_server

from perdure_engine.identity import schedule_stream
from perdure_engine.schedules.inputs import input_for
from perdure_engine.schedules.schedule import Schedule
from perdure_eventstore.door import Json

PAGE = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^\$ perdure (.*)$", PAGE, re.MULTILINE)
REPORT = {
    "workflow_id": "report",
    "tasks": [{"task_id": "a", "type": "work", "triggers": [], "inputs": {"due": "{{schedule.due}}"}}],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose database knows the workflow."""
    (tmp_path / ".perdure").mkdir()
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PERDURE_")]:
        monkeypatch.delenv(name)
    with running_server(tmp_path / ".perdure"):
        assert perdure(tmp_path, "register", "report.json", "--allow-unknown-types").status == 0
        yield tmp_path


def commands(folder: Path) -> dict[str, Answer]:
    """What each command of the page said, by its verb."""
    return {shlex.split(line)[1]: perdure(folder, *shlex.split(line)) for line in COMMANDS}


def test_the_programs_do_what_the_page_says(folder: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile("import perdure\n" + "\n".join(PROGRAMS), "docs/schedules.md", "exec"), names)

    recorder(names["app"])

    async def use() -> None:
        async with names["app"].node():
            await names["set_schedules"]()
            await names["set_schedules"]()
            (before,) = await names["app"].schedules()
            await names["backfill_january"]()
            while (schedule := (await names["app"].schedules())[0]).has_more:
                await asyncio.sleep(0.05)
            assert before.set_by == 1
            result = await names["app"].run(schedule.last_run).result(timeout=10)
            assert result == {"a": {"due": "2026-01-30T09:00:00+01:00"}}

    asyncio.run(use())
    january = perdure(folder, "runs", "--json", "--limit", "100").lines
    workdays = [day for day in range(1, 32) if date(2026, 1, day).weekday() < 5]
    assert len(january) == len(workdays)


def test_every_command_of_the_page_does_what_it_says(folder: Path) -> None:
    assert len(COMMANDS) == 7
    said = commands(folder)
    for verb, answer in said.items():
        assert answer.status == 0, f"{verb}: {answer.err}"
    assert "nightly report is due next at " in said["set"].err and "09:00 CE" in said["set"].err
    assert "no node is running" in said["set"].err
    assert "0 9 * * mon-fri" in said["list"].out and "Europe/Berlin" in said["list"].out
    assert "to come: " in said["show"].out and "ScheduleSet" in said["show"].out
    assert "nightly report is paused" in said["pause"].err
    assert "nightly report goes on" in said["resume"].err
    assert "is backfilled from 2026-01-01 until 2026-01-31" in said["backfill"].err
    assert perdure(folder, "schedule", "list", "--json").out == ""


def test_the_input_that_the_page_shows_is_what_a_run_is_given() -> None:
    (shown,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    due = datetime.fromisoformat(json.loads(shown)["schedule"]["due"])
    schedule = Schedule(
        id=schedule_stream("nightly report"), name="nightly report", workflow_id="report", cron="0 9 * * mon-fri",
        timezone="Europe/Berlin", overlap="skip", catch_up="last", set_by=1, next_due=due,
    )  # fmt: skip
    assert input_for(schedule, Json(b'{"format": "pdf"}'), due).value == json.loads(shown)
    for as_it_is in (b"[1.10]", b"null", b'{"schedule": 1}'):
        assert input_for(schedule, Json(as_it_is), due).text == as_it_is
    assert input_for(schedule, Json(b"{ }"), due).value == {"schedule": json.loads(shown)["schedule"]}
    assert input_for(schedule, Json(b'{"kept": 1.10 }'), due).text.startswith(b'{"kept": 1.10,"schedule":{')

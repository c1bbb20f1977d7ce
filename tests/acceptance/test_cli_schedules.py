"""``perdure schedule``, as people and programs meet it: real processes, their output and their exit statuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Answer, perdure

REPORT: dict[str, Any] = {
    "workflow_id": "report",
    "tasks": [{"task_id": "a", "type": "database", "triggers": []}],
}
SET = ("set", "nightly", "report", "--cron", "30 2 * * *", "--timezone", "Europe/Berlin")


class Place:
    """A database with a workflow in it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        (folder / "report.json").write_text(json.dumps(REPORT))
        assert perdure(folder, "register", "report.json", PERDURE_DATABASE_URL=url).status == 0

    def schedule(self, *arguments: str) -> Answer:
        return perdure(self.folder, "schedule", *arguments, PERDURE_DATABASE_URL=self.url)


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Place:
    return Place(tmp_path, database_url)


def test_for_machines_every_verb_prints_json(place: Place) -> None:
    (made,) = place.schedule(*SET, "--overlap", "queue", "--catch-up", "all", "--json").lines
    assert made.items() >= {
        "name": "nightly", "workflow_id": "report", "cron": "30 2 * * *", "timezone": "Europe/Berlin",
        "overlap": "queue", "catch_up": "all", "state": "active", "last_run": None, "queued": [], "backfills": [],
    }.items()  # fmt: skip
    assert made["next_due"].endswith(":30:00Z")
    assert place.schedule("list", "--json").lines == [made]
    (shown,) = place.schedule("show", "nightly", "--json").lines
    assert shown.items() >= made.items()
    assert shown["to_come"][0] == made["next_due"] and len(shown["to_come"]) == 5
    assert [(event["type"], event["version"]) for event in shown["events"]] == [("ScheduleSet", 1)]
    (paused,) = place.schedule("pause", "nightly", "--reason", "an audit", "--json").lines
    assert (paused["state"], paused["next_due"]) == ("paused", None)
    (resumed,) = place.schedule("resume", "nightly", "--json").lines
    assert resumed == made
    range_ = ("--from", "2026-01-01", "--until", "2026-01-02T02:30:00+01:00")
    (backfilled,) = place.schedule("backfill", "nightly", *range_, "--overlap", "allow", "--json").lines
    assert backfilled["backfills"] == [
        {"from": "2025-12-31T23:00:00Z", "until": "2026-01-02T01:30:00Z", "overlap": "allow"}
    ]
    (deleted,) = place.schedule("delete", "nightly", "--json").lines
    assert deleted == {"name": "nightly", "state": "deleted", "stream": made["stream"]}
    assert place.schedule("list", "--json").out == ""


def test_people_get_a_table_and_what_happened(place: Place) -> None:
    place.schedule(*SET)
    place.schedule("pause", "nightly", "--reason", "an [audit]")
    shown = place.schedule("show", "nightly")
    assert "30 2 * * *" in shown.out and "paused" in shown.out and "reason=an [audit]" in shown.out
    assert "to come" not in shown.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("show", "nightyl"), "there is no schedule 'nightyl'; did you mean nightly?"),
        (("set", "a", "report", "--cron", "0 9 * *"), "the cron expression '0 9 * *' has 4 fields and not five"),
        (("set", "a", "report", "--cron", "@daily", "--timezone", "Berlin"), "there is no time zone 'Berlin'"),
        (("set", "a", "report", "--cron", "@daily", "--overlap", "no"), "overlap is one of skip, queue, allow, cancel"),
        (("set", "a", "nothing", "--cron", "@daily"), "there is no active workflow 'nothing'; there are report"),
        (("set", "a", "report", "--cron", "@daily", "--input", "{"), "not JSON"),
        (("set", "a", "report"), "Missing option '--cron'"),
        (("backfill", "nightly", "--from", "soon", "--until", "2026-01-01"), "--from is a day such as 2026-01-31"),
        (("backfill", "nightly", "--from", "2026-01-02", "--until", "2026-01-01"), "before it starts"),
        (("backfill", "nightly", "--from", "2026-01-02", "--until", "9999-12-31"), "what is to come is the schedule's"),
    ],
)
def test_wrong_use_is_status_2_and_a_sentence(place: Place, arguments: tuple[str, ...], sentence: str) -> None:
    assert place.schedule(*SET).status == 0
    answer = place.schedule(*arguments)
    assert (answer.status, answer.out) == (2, "")
    assert sentence in answer.err
    assert "Traceback" not in answer.err

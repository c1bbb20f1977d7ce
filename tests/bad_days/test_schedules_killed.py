"""A schedule whose node is killed with -9 before or after every append, and taken over by the next one."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import orjson
import pytest
from acceptance import timetable
from acceptance.databases import cloned
from acceptance.forks import ForkServer, fork_server
from bad_days.places import NOWHERE, Place
from logs import rows
from scheduling import fired, runs

AT_ONCE = 4
HOURS = [f"{due:%H}" for due in timetable.TIMES]
PLACES = {"ScheduleSet", "BackfillRequested", "BackfillPlanned"}
PLACES |= {f"{type_} {hour}" for type_ in ("RunStarted", "ScheduleFired") for hour in HOURS}


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("forks"), "acceptance.timetable") as server:
        yield server


def lives(forks: ForkServer, url: str, notes: Path, place: Place = NOWHERE) -> set[Place]:
    """One life, to its end or to ``place``; returns the places it passed by."""
    child = forks.fork(timetable.live, url=url, notes=str(notes), where=place.where, transition=place.transition)
    child.wait(40.0)
    lines = [orjson.loads(line) for line in notes.read_bytes().splitlines()]
    assert {line["kind"] for line in lines} & {"finished", "killed"}, f"{place}: it ended by itself:\n{child.output}"
    return {Place(line["where"], name) for line in lines if line["kind"] == "passed" for name in line["transitions"]}


def check(url: str) -> None:
    """Each time has one run, and one record that says so; the last run follows the others."""
    assert sorted(runs(url)) == sorted(timetable.RUNS)
    started = [due for outcome, due in fired(url, timetable.NAME) if outcome == "started"]
    assert sorted(started) == timetable.TIMES
    assert rows(url, "select next_due - last_due > interval '1 h', has_more from perdure.schedules") == [(True, False)]
    assert rows(url, "select count(*) from perdure.open_runs") == [(0,)]


def killed_at(forks: ForkServer, template: str, folder: Path, place: Place) -> bool:
    """Kill at ``place``, let another process finish, judge. False: it never came by."""
    notes = folder / uuid4().hex
    with cloned(template) as url:
        lives(forks, url, notes, place)
        was_killed = b'"killed"' in notes.read_bytes()
        notes.unlink()
        lives(forks, url, notes)
        check(url)
    return was_killed


def test_killed_before_or_after_any_append_each_time_has_one_run_and_one_record(
    forks: ForkServer, template: str, tmp_path: Path
) -> None:
    with cloned(template) as url:
        passed = lives(forks, url, tmp_path / "whole")
        check(url)
    assert {place.transition for place in passed} == PLACES
    order, seed = sorted(passed), random.randrange(2**32)
    print(f"{len(order)} places, in the order of seed {seed}")
    random.Random(seed).shuffle(order)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        killed = list(pool.map(lambda place: killed_at(forks, template, tmp_path, place), order))
    assert all(killed), [place for place, was in zip(order, killed, strict=True) if not was]

"""A run of six tasks whose process is killed with -9 at every place, one after another, and finished by another."""

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from acceptance import walk
from acceptance.checker import History, Told, assert_kept, read_history
from acceptance.databases import cloned
from acceptance.forks import ForkServer, fork_server
from acceptance.run_checker import END_OF_ATTEMPT, data_of
from bad_days.places import NOWHERE, Place

from perdure_engine.identity import run_for_event

AT_ONCE = 6
"""Cases side by side, each on a database of its own: they mostly wait for the dead one's lease to run out."""

TRANSITIONS = {
    "DefinitionRegistered", "EventPublished", "EventRouted", "RunStarted", "TaskScheduled", "TaskStarted",
    "TaskCompleted", "TaskFailed", "EventLatched", "WaitExpired", "TaskSkipped", "RunCompleted",
}  # fmt: skip


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("forks"), "acceptance.walk") as server:
        yield server


class Case:
    """One run, and everything its processes were told."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.event = url, uuid4()
        self.run = run_for_event(self.event, f"order_{self.event.hex}")
        self.file = folder / f"{self.event}.notes"

    def notes(self, kind: str) -> list[Any]:
        lines = map(orjson.loads, self.file.read_bytes().splitlines())
        return [line for line in lines if line["kind"] == kind]

    def places(self, kind: str) -> set[Place]:
        return {Place(each["where"], name) for each in self.notes(kind) for name in each["transitions"]}

    @property
    def told(self) -> Told:
        outputs = [(UUID(each["run"]), each["task"], each["output"]) for each in self.notes("output")]
        outputs += [
            (self.run, task, output) for each in self.notes("result") for task, output in each["result"].items()
        ]
        published = {UUID(each["event"]): each["payload"] for each in self.notes("published")}
        return Told(published, [self.run], outputs)

    def story(self) -> str:
        """The log of this run, a line an event."""
        events = [event for event in read_history(self.url).events if event.stream in (self.run, self.event)]
        return "\n".join(f"{event.recorded_at.time()} {event.type} {event.data.decode()}" for event in events)


def walk_once(forks: ForkServer, case: Case, place: Place = NOWHERE) -> None:
    """Walk to the end, or to the place where the process dies."""
    arguments = {"url": case.url, "event_id": str(case.event), "notes": str(case.file)}
    child = forks.fork(walk.walk, **arguments, where=place.where, transition=place.transition)
    child.wait(30.0)
    done = case.notes("finished") or (place.where and case.notes("killed"))
    assert done, f"{place}, killed {case.notes('killed')}: it ended by itself:\n{child.output}\n{case.story()}"


def under_way(history: History, run: UUID) -> set[tuple[str, int]]:
    """The attempts of a run that have started and not ended."""
    found: set[tuple[str, int]] = set()
    for event in history.events:
        attempt = data_of(event).get("task_id", ""), data_of(event).get("attempt", 0)
        if event.stream == run and event.type == "TaskStarted":
            found.add(attempt)
        elif event.stream == run and event.type in END_OF_ATTEMPT:
            found.discard(attempt)
    return found


def check_kept(case: Case, interrupted: set[tuple[str, int]]) -> None:
    """The run completed, nothing lost, doubled or changed, and what was interrupted says so."""
    history = assert_kept(case.url, case.told)
    events = [event for event in history.events if event.stream == case.run]
    assert events[-1].type == "RunCompleted"
    completed = Counter(data_of(event)["task_id"] for event in events if event.type == "TaskCompleted")
    assert completed == Counter(walk.COMPLETED)
    recorded = [data_of(event) for event in events if event.type == "TaskInterrupted"]
    crashes = {(data["task_id"], data["attempt"]) for data in recorded if not data.get("clean")}
    assert crashes == interrupted
    with psycopg.connect(case.url) as connection:
        rows = connection.execute("select token from public.ledger where run = %s", (case.run,)).fetchall()
    assert rows == [(case.notes("result")[-1]["result"]["charge"],)]


def killed_at(forks: ForkServer, url: str, folder: Path, place: Place) -> set[Place]:
    """Kill at ``place``, let another process finish, judge; returns every place this was."""
    case = Case(url, folder)
    walk_once(forks, case, place)
    interrupted = under_way(read_history(url), case.run) if case.notes("killed") else set()
    walk_once(forks, case)
    try:
        check_kept(case, interrupted)
    except AssertionError as error:
        error.add_note(f"killed at {place}\n{case.story()}")
        raise
    return case.places("killed")


def one_an_append(case: Case, wanted: set[Place]) -> list[Place]:
    """The first of each append's transitions: to die at one is to die at all of them."""
    found = []
    for each in case.notes("passed"):
        group = {Place(each["where"], name) for name in each["transitions"]} & wanted
        if group:
            found.append(min(group))
    return found


@pytest.fixture
def databases(template: str) -> Iterator[SimpleQueue[str]]:
    """As many as there are cases at once; each is used again by the next case."""
    free: SimpleQueue[str] = SimpleQueue()
    with ExitStack() as stack:
        for _ in range(AT_ONCE):
            url = stack.enter_context(cloned(template))
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("create table public.ledger (run uuid, token text)")
            free.put(url)
        yield free


def test_killed_at_every_place_each_run_completes_and_nothing_is_lost_or_done_twice(
    forks: ForkServer, databases: SimpleQueue[str], tmp_path: Path
) -> None:
    def kill(place: Place) -> set[Place]:
        url = databases.get()
        try:
            return killed_at(forks, url, tmp_path, place)
        finally:
            databases.put(url)

    whole = Case(url := databases.get(), tmp_path)
    walk_once(forks, whole)
    check_kept(whole, set())
    databases.put(url)
    missing = whole.places("passed")
    assert {place.transition.partition(" ")[0] for place in missing} >= TRANSITIONS
    assert Place("uncommitted", "TaskCompleted charge 1") in missing
    for _ in range(5):
        # Group commit cuts a walk differently from time to time, so what was missed is tried again.
        order = one_an_append(whole, missing)
        seed = random.randrange(2**32)
        print(f"{len(order)} places, in the order of seed {seed}")
        random.Random(seed).shuffle(order)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            missing = missing.difference(*pool.map(kill, order))
        if not missing:
            return
    raise AssertionError(f"never died at {missing}")

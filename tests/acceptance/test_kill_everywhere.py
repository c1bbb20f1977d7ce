"""A run of six tasks whose process is killed with -9 at every place, one after another, and finished by another."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest

from acceptance import walk
from acceptance.checker import History, Told, assert_kept, read_history
from acceptance.databases import cloned
from acceptance.forks import ForkServer, fork_server
from acceptance.run_checker import END_OF_ATTEMPT, data_of
from perdure_engine.identity import run_for_event

AT_ONCE = 6
"""Cases side by side: each mostly waits for the dead one's lease to run out."""

TRANSITIONS = {
    "DefinitionRegistered", "EventPublished", "EventRouted", "RunStarted", "TaskScheduled", "TaskStarted",
    "TaskCompleted", "TaskFailed", "EventLatched", "WaitExpired", "TaskSkipped", "RunCompleted",
}  # fmt: skip


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("forks"), "acceptance.walk") as server:
        yield server


class Case(NamedTuple):
    """One run, and everything its processes were told."""

    url: str
    event: UUID
    file: Path

    @property
    def run(self) -> UUID:
        return run_for_event(self.event, "order")

    def notes(self, kind: str) -> list[Any]:
        lines = map(orjson.loads, self.file.read_bytes().splitlines())
        return [line for line in lines if line["kind"] == kind]

    @property
    def told(self) -> Told:
        outputs = [(UUID(each["run"]), each["task"], each["output"]) for each in self.notes("output")]
        outputs += [(self.run, task, output) for each in self.notes("result") for task, output in each["result"].items()]
        published = {UUID(each["event"]): each["payload"] for each in self.notes("published")}
        return Told(published, [self.run], outputs)


def new_case(template: str, folder: Path) -> Iterator[Case]:
    with cloned(template) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("create table public.ledger (run uuid, token text)")
        yield Case(url, uuid4(), folder / f"{uuid4()}.notes")


def walk_once(forks: ForkServer, case: Case, place: int = 0) -> None:
    """Walk to the end, or to the place where the process dies."""
    child = forks.fork(walk.walk, url=case.url, event_id=str(case.event), notes=str(case.file), place=place)
    child.wait(30.0)
    done = case.notes("finished") or (place and case.notes("killed"))
    assert done, f"place {place}, killed {case.notes('killed')}: it ended by itself:\n{child.output}\n{story(case)}"


def story(case: Case) -> str:
    """The whole log, a line an event."""
    events = read_history(case.url).events
    return "\n".join(f"{event.recorded_at.time()} {event.type} {event.data.decode()}" for event in events)


def under_way(history: History) -> set[tuple[str, int]]:
    """The attempts that have started and not ended."""
    found: set[tuple[str, int]] = set()
    for event in history.events:
        attempt = data_of(event).get("task_id", ""), data_of(event).get("attempt", 0)
        if event.type == "TaskStarted":
            found.add(attempt)
        elif event.type in END_OF_ATTEMPT:
            found.discard(attempt)
    return found


def check_kept(case: Case, interrupted: set[tuple[str, int]]) -> None:
    """The run completed, nothing lost, doubled or changed, and what was interrupted says so."""
    history = assert_kept(case.url, case.told)
    events = [event for event in history.events if event.stream == case.run]
    assert events[-1].type == "RunCompleted"
    completed = Counter(data_of(event)["task_id"] for event in events if event.type == "TaskCompleted")
    assert completed == Counter(walk.TASKS)
    recorded = [data_of(event) for event in events if event.type == "TaskInterrupted"]
    crashes = {(data["task_id"], data["attempt"]) for data in recorded if not data.get("clean")}
    assert crashes == interrupted
    with psycopg.connect(case.url) as connection:
        rows = connection.execute("select run, token from public.ledger").fetchall()
    (result,) = case.notes("result")[-1:]
    assert rows == [(case.run, result["result"]["charge"])]


def killed_at(forks: ForkServer, template: str, folder: Path, place: int) -> dict[str, Any]:
    """Kill at ``place``, let another process finish, judge; returns where it died."""
    for case in new_case(template, folder):
        walk_once(forks, case, place)
        interrupted = under_way(read_history(case.url)) if case.notes("killed") else set()
        walk_once(forks, case)
        try:
            check_kept(case, interrupted)
        except AssertionError as error:
            error.add_note(f"killed at place {place}: {case.notes('killed')}")
            raise
        return next(iter(case.notes("killed")), {"where": "nowhere", "types": []})
    raise AssertionError("unreachable")


def test_killed_at_every_place_each_run_completes_and_nothing_is_lost_or_done_twice(
    forks: ForkServer, template: str, tmp_path: Path
) -> None:
    for case in new_case(template, tmp_path):
        walk_once(forks, case)
        check_kept(case, set())
        places = case.notes("finished")[0]["places"]
    # Group commit cuts a walk differently from time to time; a place beyond its end kills nobody.
    order = list(range(1, places + 5))
    seed = random.randrange(2**32)
    print(f"{places} places, in the order of seed {seed}")
    random.Random(seed).shuffle(order)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        deaths = list(pool.map(lambda place: killed_at(forks, template, tmp_path, place), order))
    seen = defaultdict[str, set[str]](set)
    for death in deaths:
        seen[death["where"]] |= set(death["types"])
    assert seen["before"] >= TRANSITIONS
    assert seen["after"] >= TRANSITIONS
    assert seen["uncommitted"] >= {"TaskCompleted"}

"""Waiting for a run's end leaves nothing behind, and what is remembered of ended runs is bounded."""

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest
from immutables import Map
from msgspec.structs import replace

from perdure_engine import endings as module
from perdure_engine.definitions.compile import compile_definition
from perdure_engine.endings import Endings
from perdure_engine.run import new_run
from perdure_eventstore.door import Json

DEFINITION = compile_definition({"workflow_id": "w", "tasks": [{"task_id": "a", "type": "noop", "triggers": []}]})


def end(endings: Endings, size: int) -> UUID:
    """A run ends, with ``size`` bytes each as its input, its task's inputs and its output."""
    run, text = uuid4(), Json(b'"' + b"x" * (size - 2) + b'"')
    state = new_run(DEFINITION, run)
    task = replace(state.task("a"), status="completed", inputs=text, output=text)
    endings.told(run, (), replace(state, status="completed", input=text, tasks=Map({"a": task})))
    return run


def remembered(endings: Endings, runs: Sequence[UUID]) -> list[int]:
    return [number for number, run in enumerate(runs) if endings.get(run) is not None]


async def test_a_wait_that_is_cancelled_leaves_nothing_behind() -> None:
    endings, run = Endings(), uuid4()
    other = asyncio.create_task(endings.wait(run, 0.1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await endings.wait(run, 60)
    assert len(endings._waiting[run]) == 1
    await other
    assert not endings._waiting


def test_what_is_remembered_is_bounded_in_number_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 10)
    monkeypatch.setattr(module, "_MOST_BYTES", 3_000)
    endings = Endings()
    runs = [end(endings, 100) for _ in range(12)]
    assert remembered(endings, runs) == list(range(2, 12))
    runs += [end(endings, 500) for _ in range(2)]
    assert remembered(endings, runs) == [12, 13]
    endings.drop(runs[13])
    runs.append(end(endings, 500))
    assert remembered(endings, runs) == [12, 14], "who was erased takes no room"


def test_a_run_that_ended_is_told_again_without_taking_room_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 1_000)
    endings = Endings()
    run = end(endings, 200)
    state = endings.get(run)
    assert state is not None
    for _ in range(10):
        endings.told(run, (), state)
    assert endings.get(run) is state


def test_a_run_larger_than_all_the_room_takes_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 3_000)
    endings = Endings()
    runs = [end(endings, 100), end(endings, 5_000), end(endings, 100)]
    assert remembered(endings, runs) == [0, 2]

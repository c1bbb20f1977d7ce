"""Definitions drawn at random: a few tasks, triggers of every kind."""

from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

from perdure_engine.definitions.compile import compile_definition
from perdure_engine.definitions.definition import Definition
from perdure_engine.faults import DefinitionRefused

EVENTS = ("go", "paid", "other")
WHERES = (None, None, "event.payload.n > 0", "event.payload.n > 1")
ENDS = ("completed", "completed", "failed", "skipped", "done", "ended")


def compiled(document: dict[str, Any]) -> Definition:
    """What ``document`` compiles to; a refused one is no example."""
    try:
        return compile_definition(document)
    except DefinitionRefused:
        reject()


@st.composite
def documents(draw: st.DrawFn, *, alone: bool = False) -> dict[str, Any]:
    """A document, one that may be refused. ``alone``: only its own tasks can make a difference to its runs."""
    tasks: list[dict[str, Any]] = [{"task_id": "t0", "type": "noop", "triggers": draw(st.sampled_from([["go"], []]))}]
    for number in range(1, draw(st.integers(2, 7))):
        tasks.append(draw(_tasks(number, alone)))
    document: dict[str, Any] = {"workflow_id": "w", "tasks": draw(st.permutations(tasks))}
    if draw(st.booleans()):
        document["start"] = ["go"] if alone else draw(st.lists(st.sampled_from(EVENTS), min_size=1, unique=True))
    if not alone:
        document["fail_fast"] = draw(st.booleans())
        document.update(draw(st.sampled_from([{}, {}, {"deadline": 60}])))
        document.update(draw(st.sampled_from([{}, {}, {"output": "{{tasks.t0.output}}"}])))
    return document


@st.composite
def _tasks(draw: st.DrawFn, number: int, alone: bool) -> dict[str, Any]:
    task: dict[str, Any] = {"task_id": f"t{number}", "type": "noop"}
    condition = _conditions(number, alone)
    trigger = condition | st.lists(condition, min_size=1, max_size=3, unique_by=str).map(lambda found: {"all": found})
    task["triggers"] = draw(st.lists(trigger, max_size=3))
    if draw(st.integers(0, 3)) == 0:
        task["depends_on"] = draw(st.lists(_ids(number), min_size=1, max_size=2, unique=True))
    task["on_failure"] = draw(st.sampled_from(["fail", "fail", "continue"]))
    task.update(draw(st.sampled_from([{}, {}, {}, {}, {"when": "true"}, {"when": "false"}, {"when": "1"}])))
    task.update(draw(st.sampled_from([{}, {}, {}, {}, {"inputs": {"x": "{{missing}}"}}])))
    return task


def _ids(number: int) -> st.SearchStrategy[str]:
    return st.integers(0, number - 1).map(lambda other: f"t{other}")


def _conditions(number: int, alone: bool) -> st.SearchStrategy[Any]:
    end = st.builds("{}.{}".format, _ids(number), st.sampled_from(ENDS))
    of = _ids(number).map(lambda other: f"event.payload.task_id == '{other}'")
    completion = st.builds(_event, st.just("task_completed"), st.none() | of, st.none() if alone else _WITHIN)
    event = st.builds(_event, st.sampled_from(EVENTS), st.sampled_from(WHERES), _WITHIN)
    if alone:
        return end | end | end | st.sampled_from(["go", "task_completed"]) | completion
    return end | end | end | st.sampled_from(["paid", "task_completed"]) | completion | event | event


_WITHIN = st.sampled_from([None, None, 30])


def _event(name: str, where: str | None, within: int | None) -> dict[str, Any]:
    keys = {"event": name, "where": where, "within": within}
    return {key: value for key, value in keys.items() if value is not None}

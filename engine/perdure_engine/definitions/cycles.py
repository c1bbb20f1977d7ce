"""The order in which tasks can end, and the cycles that have none."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from perdure_engine.definitions.draft import TaskDraft
from perdure_engine.definitions.report import Report

_SHOWN = 12
"""Tasks of a cycle a sentence names."""


class Order(NamedTuple):
    """The tasks, each after those whose ends it waits for; ``cyclic`` ones stand anywhere."""

    task_ids: tuple[str, ...]
    cyclic: frozenset[str]


def parents(task: TaskDraft) -> dict[str, str]:
    """The tasks whose ends this one waits for, each with the pointer of the first clause that says so."""
    found: dict[str, str] = {}
    for clause in task.clauses:
        for end in clause.ends:
            if end.task_id is not None:
                found.setdefault(end.task_id, clause.pointer)
    return found


def find_order(tasks: Mapping[str, TaskDraft], report: Report) -> Order:
    """Orders the tasks (Kahn's algorithm); each cycle is reported once and then passed over."""
    waits = {task_id: parents(task) for task_id, task in tasks.items()}
    position = {task_id: number for number, task_id in enumerate(tasks)}
    children: dict[str, list[str]] = {task_id: [] for task_id in tasks}
    for task_id, found in waits.items():
        for parent in found:
            children[parent].append(task_id)
    missing = Counter({task_id: len(found) for task_id, found in waits.items()})
    ready = deque(task_id for task_id in tasks if not waits[task_id])
    order: dict[str, None] = {}
    cyclic: set[str] = set()
    remaining = list(tasks)[::-1]
    while len(order) < len(tasks):
        if not ready:
            while remaining[-1] in order:
                remaining.pop()
            cycle = _cycle(remaining[-1], waits, order)
            _report(_turned(cycle, position), waits, report)
            cyclic.update(cycle)
            ready.extend(cycle)
        task_id = ready.popleft()
        if task_id in order:
            continue
        order[task_id] = None
        for each in children[task_id]:
            missing[each] -= 1
            if missing[each] == 0:
                ready.append(each)
    return Order(tuple(order), frozenset(cyclic))


def _cycle(first: str, waits: Mapping[str, Mapping[str, str]], order: Mapping[str, None]) -> list[str]:
    """A cycle upstream of a task that nothing releases, each task before the one that waits for it."""
    path: dict[str, None] = {}
    here = first
    while here not in path:
        path[here] = None
        here = next(parent for parent in waits[here] if parent not in order)
    walked = list(path)
    return walked[walked.index(here) :][::-1]


def _turned(cycle: list[str], position: Mapping[str, int]) -> list[str]:
    """The same cycle, from the task that comes first in the document."""
    first = cycle.index(min(cycle, key=position.__getitem__))
    return cycle[first:] + cycle[:first]


def _report(cycle: Sequence[str], waits: Mapping[str, Mapping[str, str]], report: Report) -> None:
    shown = [f"`{task_id}`" for task_id in cycle[:_SHOWN]]
    if len(cycle) > _SHOWN:
        shown.append(f"{len(cycle) - _SHOWN:,} more")
    names = " -> ".join([*shown, shown[0]])
    report.fault(waits[cycle[0]][cycle[-1]], f"these tasks wait for each other, so none can ever start: {names}")

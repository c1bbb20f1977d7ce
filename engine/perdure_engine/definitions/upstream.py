"""Which tasks have surely a chance to end before another: its ancestors through task ends."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from perdure_engine.definitions.bits import numbered
from perdure_engine.definitions.cycles import Order, parents
from perdure_engine.definitions.draft import TaskDraft


class Pair(NamedTuple):
    """A task, and another whose outcome it wants to read."""

    task_id: str
    wanted: str


def strays(pairs: Iterable[Pair], tasks: Mapping[str, TaskDraft], order: Order) -> frozenset[Pair]:
    """The pairs whose wanted task is upstream of the task in none of its clauses."""
    waits = {task_id: parents(task) for task_id, task in tasks.items()}
    # Nearly every reference is to a direct parent; only the rest is worth a pass over the graph.
    distant = [pair for pair in pairs if pair.wanted not in waits[pair.task_id]]
    found: set[Pair] = set()
    for bit in numbered(dict.fromkeys(pair.wanted for pair in distant)):
        above = _above(bit, tasks, waits, order)
        found |= {pair for pair in distant if pair.wanted in bit and not above[pair.task_id] >> bit[pair.wanted] & 1}
    return frozenset(found)


def _above(
    bit: Mapping[str, int],
    tasks: Mapping[str, TaskDraft],
    waits: Mapping[str, Mapping[str, str]],
    order: Order,
) -> dict[str, int]:
    """For each task, the bits of those among the wanted that are upstream of it."""
    everything = (1 << len(bit)) - 1
    above: dict[str, int] = {}
    for task_id in order.task_ids:
        if task_id in order.cyclic or _may_follow_any(tasks[task_id]):
            above[task_id] = everything
            continue
        bits = 0
        for parent in waits[task_id]:
            bits |= above[parent]
            if parent in bit:
                bits |= 1 << bit[parent]
        above[task_id] = bits
    return above


def _may_follow_any(task: TaskDraft) -> bool:
    """``task_completed`` may be any task's; an unreadable trigger too."""
    return task.unclear or any(end.task_id is None for clause in task.clauses for end in clause.ends)

"""Joins that can never hold.

For each task stands what a run in which it was made ready is known to lack: "charge did not complete", "the run was
not started by order_placed". All of a clause's conditions add what they know; of several clauses only what each of
them knows is kept. A clause is impossible when an ancestor is left no outcome, or the run no starting event.

An outcome ruled out is a bit, and a set of them one integer: three bits for each task, or one for each entry event.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from itertools import islice
from operator import and_, or_
from typing import NamedTuple

from perdure_engine.definitions.bits import lowest, numbered
from perdure_engine.definitions.cycles import Order
from perdure_engine.definitions.definition import TaskEnd
from perdure_engine.definitions.draft import ClauseDraft, Draft, EventDraft, TaskDraft
from perdure_engine.definitions.report import Report

_OUTCOMES = ("completed", "failed", "skipped")
_RULED_OUT: Mapping[str, int] = {"completed": 0b110, "failed": 0b101, "skipped": 0b011, "done": 0b010, "ended": 0}
"""By outcome: the lowest bit is completed, then failed, then skipped."""
_SHOWN = 6

Condition = TaskEnd | EventDraft


class _Share(NamedTuple):
    """What one condition of a clause rules out."""

    condition: Condition
    bits: int


class _Question(NamedTuple):
    """What a walk keeps account of: bits a condition rules out by itself, and whether a clause's are too many."""

    rules_out: Callable[[TaskDraft, Condition], int]
    too_many: Callable[[int], bool]
    sentence: Callable[[list[_Share]], str]


def check_joins(draft: Draft, order: Order, entries: frozenset[str], report: Report) -> None:
    """Report each clause that can never hold."""
    said: set[int] = set()
    for question in _questions(draft, entries):
        for clause, shares in _impossible(draft, order, question):
            if id(clause) not in said:
                said.add(id(clause))
                report.fault(clause.pointer, question.sentence(shares))


def _questions(draft: Draft, entries: frozenset[str]) -> Iterator[_Question]:
    yield _about_start(draft, sorted(entries))
    # Two conditions can disagree about a task only if one of them wants it not to complete.
    doubted = {
        end.task_id: None
        for task in draft.tasks.values()
        for clause in task.clauses
        for end in clause.ends
        if end.task_id is not None and end.on in ("failed", "skipped")
    }
    for bit in numbered(doubted):
        yield _about_outcomes(draft, bit)


def _impossible(draft: Draft, order: Order, question: _Question) -> Iterator[tuple[ClauseDraft, list[_Share]]]:
    """The clauses for which too much is ruled out, found in one walk down the graph."""
    known: dict[str, int] = {}
    for task_id in order.task_ids:
        task = draft.tasks[task_id]
        kept = []
        for clause in task.clauses:
            conditions: tuple[Condition, ...] = (*clause.ends, *clause.events)
            shares = [_share(task, condition, known, question) for condition in conditions]
            bits = reduce(or_, (share.bits for share in shares), 0)
            if question.too_many(bits):
                yield clause, shares
            else:
                kept.append(bits)
        known[task_id] = reduce(and_, kept) if kept and not task.unclear else 0


def _share(task: TaskDraft, condition: Condition, known: Mapping[str, int], question: _Question) -> _Share:
    bits = question.rules_out(task, condition)
    # What completed or failed was made ready before; what was skipped may not have been.
    if isinstance(condition, TaskEnd) and condition.task_id is not None and condition.on in ("completed", "failed"):
        bits |= known.get(condition.task_id, 0)
    return _Share(condition, bits)


def _about_outcomes(draft: Draft, bit: Mapping[str, int]) -> _Question:
    """Whether each task of ``bit`` is left an outcome."""
    names = list(bit)
    first_of_each = reduce(or_, (1 << 3 * number for number in range(len(bit))), 0)

    def rules_out(_: TaskDraft, condition: Condition) -> int:
        if not isinstance(condition, TaskEnd) or condition.task_id is None or condition.task_id not in bit:
            return 0
        # With `on_failure: continue` a failure counts as done (rule 11).
        lenient = condition.on == "done" and draft.tasks[condition.task_id].proceed_on_failure
        return 0 if lenient else _RULED_OUT[condition.on] << 3 * bit[condition.task_id]

    def impossible(bits: int) -> int:
        return bits & bits >> 1 & bits >> 2 & first_of_each

    def sentence(shares: list[_Share]) -> str:
        number = lowest(impossible(reduce(or_, (share.bits for share in shares)))) // 3
        return _outcomes_sentence(shares, names[number], number)

    return _Question(rules_out, lambda bits: impossible(bits) != 0, sentence)


def _outcomes_sentence(shares: list[_Share], task_id: str, number: int) -> str:
    needs: dict[str, str] = {}
    direct = True
    for share in shares:
        ruled_out = share.bits >> 3 * number & 0b111
        if ruled_out:
            left = " or ".join(name for place, name in enumerate(_OUTCOMES) if not ruled_out >> place & 1)
            needs.setdefault(left, f"{_written(share.condition)} needs `{task_id}` {left}")
            direct &= isinstance(share.condition, TaskEnd) and share.condition.task_id == task_id
    if direct:
        return f"this can never hold: `{task_id}` ends once, and cannot be both {' and '.join(needs)}"
    return f"this can never hold: {', '.join(needs.values())}; where branches meet again, wait for their `.done`"


def _about_start(draft: Draft, entries: list[str]) -> _Question:
    """Whether a run is left an event to be started by: it is started by one alone."""
    bit = {name: number for number, name in enumerate(entries)}
    all_of_them = (1 << len(entries)) - 1

    def rules_out(task: TaskDraft, condition: Condition) -> int:
        if isinstance(condition, TaskEnd) or condition.name not in bit or not task.is_root:
            return 0
        return all_of_them ^ 1 << bit[condition.name]

    def sentence(shares: list[_Share]) -> str:
        distinct = {share.bits: share.condition for share in reversed(shares) if share.bits}
        needs = []
        for bits, condition in islice(reversed(distinct.items()), _SHOWN):
            left = [f"`{name}`" for name in entries if not bits >> bit[name] & 1]
            needs.append(f"{_written(condition)} needs that to be {_few(left)}")
        hint = (
            "leave one of them in `start`" if draft.start is not None else "name the one that starts a run in `start`"
        )
        return (
            f"this can never hold: one event starts a run, and {', '.join(needs)}; "
            f"{hint}, and the others are waited for"
        )

    return _Question(rules_out, lambda bits: bits == all_of_them != 0, sentence)


def _written(condition: Condition) -> str:
    if isinstance(condition, TaskEnd):
        return f"`{condition.task_id}.{condition.on}`"
    return f"`{condition.name}`"


def _few(words: list[str]) -> str:
    return " or ".join(words[:_SHOWN]) + (f" and {len(words) - _SHOWN:,} more" if len(words) > _SHOWN else "")

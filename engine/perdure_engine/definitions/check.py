"""What only the whole definition can show: tasks, events and types that the parts name."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from perdure_engine.definitions.cycles import Order
from perdure_engine.definitions.draft import Draft, EventDraft, TaskDraft
from perdure_engine.definitions.expressions import check_expression, check_template
from perdure_engine.definitions.handler_inputs import HandlerInputs
from perdure_engine.definitions.names import ANY_COMPLETION
from perdure_engine.definitions.pointers import child
from perdure_engine.definitions.report import Report
from perdure_engine.definitions.upstream import Pair, strays
from perdure_engine.templates import Reference

KnownTypes = Mapping[str, Mapping[str, Any]]
"""Task types, each with the JSON Schema of its inputs; an empty one says nothing of them."""

_FIELDS = ("output", "status", "error")


def check_uses(draft: Draft, order: Order, report: Report) -> None:
    """Report references to tasks that are not there or not upstream, and to events a task is not triggered by."""
    wanted = (
        Pair(task.task_id, str(reference[1]))
        for task in draft.tasks.values()
        for reference in task.references
        if reference[0] == "tasks" and len(reference) > 1 and reference[1] in draft.tasks
    )
    uses = _Uses(draft, strays(dict.fromkeys(wanted), draft.tasks, order), report)
    for task in draft.tasks.values():
        wrong = partial(uses.wrong, task)
        check_template(task.inputs, task.written_inputs, wrong, report)
        if task.when is not None:
            check_expression(task.when, wrong, report)
        if task.delay is not None:
            check_template(task.delay, task.written_delay, wrong, report)
        if task.concurrency is not None:
            check_template(task.concurrency.key, task.written_key, wrong, report)
    if draft.output is not None:
        check_template(draft.output, draft.written_output, partial(uses.wrong, None), report)


class _Uses:
    def __init__(self, draft: Draft, stray: frozenset[Pair], report: Report) -> None:
        self.tasks = draft.tasks
        self.stray = stray
        self.report = report

    def wrong(self, task: TaskDraft | None, reference: Reference) -> str | None:
        """What is wrong with a reference of a task, or of ``output``."""
        if len(reference) == 1:
            return None
        if reference[0] == "tasks":
            return self._wrong_task(reference, task)
        if reference[0] == "events" and task is not None and not task.unclear:
            return self._wrong_event(str(reference[1]), task)
        return None

    def _wrong_task(self, reference: Reference, task: TaskDraft | None) -> str | None:
        wanted = str(reference[1])
        if wanted not in self.tasks:
            return f"there is no task `{wanted}` here{self.report.near(wanted, self.tasks)}"
        if len(reference) > 2 and reference[2] not in _FIELDS:
            return f"a task has `output`, `status` and `error`; did you mean `tasks.{wanted}.output.{reference[2]}`?"
        if task is None:
            return None
        if wanted == task.task_id:
            return f"`{wanted}` has not ended when this is read: a task cannot use its own outcome"
        if Pair(task.task_id, wanted) in self.stray:
            return (
                f"`{wanted}` need not have ended before `{task.task_id}`: "
                f"wait for it with `depends_on`, or with `{wanted}.done` in `triggers`"
            )
        return None

    def _wrong_event(self, name: str, task: TaskDraft) -> str | None:
        names = {event.name for clause in task.clauses for event in clause.events}
        if name in names:
            return None
        near = self.report.near(name, names)
        return f"no trigger of `{task.task_id}` names the event `{name}`{near}"


def check_types(draft: Draft, known: KnownTypes | None, allow_unknown: bool, report: Report) -> None:
    """Report task types nobody has, and inputs that do not fit those that are known (rule 23)."""
    unchecked: set[str] = set()
    for task in draft.tasks.values():
        if not task.type:
            continue
        if known is not None and task.type in known:
            pointer = child(task.pointer, "inputs") if task.written_inputs else task.pointer
            HandlerInputs(task.type, known[task.type], report).check(task.written_inputs, pointer)
        elif known is not None and not allow_unknown:
            near = report.near(task.type, known) or "; register a handler, or allow unknown types"
            report.fault(child(task.pointer, "type"), f"no node has a handler for task type `{task.type}`{near}")
        elif task.type not in unchecked:
            unchecked.add(task.type)
            near = "" if known is None else report.near(task.type, known)
            report.warn(child(task.pointer, "type"), f"nothing here knows task type `{task.type}`{near}")


def check_waits(draft: Draft, entries: frozenset[str], report: Report) -> None:
    """Warn of what may keep a run open for ever (rule 9), and of a time limit that limits nothing."""
    warned: set[tuple[str, str | None]] = set()
    for in_root, event in _events(draft):
        if in_root and event.name in entries:
            if event.within is not None:
                report.warn(
                    event.pointer,
                    f"`within` limits nothing: `{event.name}` starts the run; "
                    "if a run shall wait for it, name the events that start one in `start`",
                )
        elif draft.deadline is None and _has_no_end(event, entries) and (event.name, event.condition) not in warned:
            warned.add((event.name, event.condition))
            report.warn(
                event.pointer,
                f"a run may wait for `{event.name}` for ever: give it `within`, or the definition a `deadline`",
            )


def _has_no_end(event: EventDraft, entries: frozenset[str]) -> bool:
    if event.name == ANY_COMPLETION or event.within is not None:
        return False
    # The only event that starts a run has come in every run, and is latched (rule 6).
    return event.condition is not None or entries != {event.name}


def _events(draft: Draft) -> Iterator[tuple[bool, EventDraft]]:
    """Each event trigger, and whether it stands in a root task."""
    for task in draft.tasks.values():
        in_root = task.is_root
        for clause in task.clauses:
            for event in clause.events:
                yield in_root, event

"""Which events start a run (rule 4)."""

from collections.abc import Mapping

from perdure_engine.definitions.draft import Draft, TaskDraft
from perdure_engine.definitions.names import RESERVED_EVENTS, wrong_event_name
from perdure_engine.definitions.report import Report


def find_entries(draft: Draft, report: Report) -> frozenset[str]:
    """The events of the ``start`` list, or else every event that alone makes a root task ready."""
    roots = [task for task in draft.tasks.values() if task.is_root]
    entries = _alone(roots) if draft.start is None else _listed(draft, roots, report)
    if not entries and not _can_start(draft, roots):
        report.fault("/tasks", _no_entry(roots))
    return entries


def _alone(roots: list[TaskDraft]) -> frozenset[str]:
    return frozenset(clause.events[0].name for task in roots for clause in task.clauses if len(clause.events) == 1)


def _listed(draft: Draft, roots: list[TaskDraft], report: Report) -> frozenset[str]:
    heard = {event.name for task in roots for clause in task.clauses for event in clause.events}
    entries = set()
    for pointer, name in draft.start or ():
        wrong = wrong_event_name(name)
        if wrong is None and name in RESERVED_EVENTS:
            wrong = f"`{name}` is the engine's own event and starts no run"
        if wrong is None and name not in heard and not _any_unclear(draft.tasks):
            near = report.near(name, heard)
            wrong = f"no task that waits for no other task is triggered by `{name}`, so it could start nothing{near}"
        if wrong is None:
            entries.add(name)
        else:
            report.fault(pointer, wrong)
    return frozenset(entries)


def _can_start(draft: Draft, roots: list[TaskDraft]) -> bool:
    """A task is ready at the run's start, or a fault already said hides what could start one."""
    ready = any(not clause.events for task in roots for clause in task.clauses)
    return ready or bool(draft.start) or _any_unclear(draft.tasks) or not draft.tasks


def _any_unclear(tasks: Mapping[str, TaskDraft]) -> bool:
    return any(task.unclear for task in tasks.values())


def _no_entry(roots: list[TaskDraft]) -> str:
    if not roots:
        return (
            "nothing can start a run: every task waits for another; "
            "give one an event as a trigger, or `triggers: []` to be ready at the run's start"
        )
    return (
        "nothing can start a run: no event alone makes a task ready, and none is ready at the run's start; "
        "name the event that starts a run in `start`"
    )

"""From a document to a definition: read, checked as a whole, put into the form the engine runs."""

from collections import defaultdict
from collections.abc import Iterable

from perdure_engine.definitions.check import KnownTypes, check_types, check_uses, check_waits
from perdure_engine.definitions.cycles import find_order
from perdure_engine.definitions.definition import (
    Clause,
    Definition,
    Dependent,
    EndDependent,
    EventTrigger,
    TaskSpec,
)
from perdure_engine.definitions.document import canonical, digest_of
from perdure_engine.definitions.draft import Draft, EventDraft, TaskDraft
from perdure_engine.definitions.entries import find_entries
from perdure_engine.definitions.fields import kind
from perdure_engine.definitions.joins import check_joins
from perdure_engine.definitions.pointers import in_document_order
from perdure_engine.definitions.read import read_draft
from perdure_engine.definitions.report import Report
from perdure_engine.faults import DefinitionRefused, Fault


def compile_definition(
    document: object, *, known_types: KnownTypes | None = None, allow_unknown_types: bool = False
) -> Definition:
    """The definition a document describes, its warnings with it.

    ``known_types`` maps each task type to the JSON Schema of its inputs. A type that is not among them is a fault, or
    with ``allow_unknown_types`` a warning; without ``known_types`` nothing is known of any, and each type is a warning.

    Raises DefinitionRefused with every fault, in document order.
    """
    text = canonical(document)
    if not isinstance(document, dict):
        raise DefinitionRefused("", [Fault("", f"a definition is an object, not {kind(document)}")])
    report = Report()
    draft = read_draft(document, report)
    order = find_order(draft.tasks, report)
    entries = find_entries(draft, report)
    check_joins(draft, order, entries, report)
    check_uses(draft, order, report)
    check_types(draft, known_types, allow_unknown_types, report)
    if report.faults:
        raise DefinitionRefused(draft.workflow_id, in_document_order(report.faults, document))
    check_waits(draft, entries, report)
    return _compiled(draft, text, entries, in_document_order(report.warnings, document))


def _compiled(draft: Draft, text: bytes, entries: frozenset[str], warnings: tuple[Fault, ...]) -> Definition:
    events = _Events(entries)
    tasks = {task.task_id: _spec(task, events) for task in draft.tasks.values()}
    return Definition(
        workflow_id=draft.workflow_id,
        digest=digest_of(text),
        document=text,
        tasks=tasks,
        events=tuple(events.triggers),
        entries=entries,
        listeners=_listeners(events.triggers),
        event_dependents=_event_dependents(tasks.values(), len(events.triggers)),
        end_dependents=_end_dependents(tasks.values()),
        any_completion=_any_completion(tasks.values()),
        roots=tuple(task.task_id for task in draft.tasks.values() if task.is_root),
        key=draft.key,
        fail_fast=draft.fail_fast,
        output=draft.output,
        deadline=draft.deadline,
        has_keys=any(task.concurrency is not None for task in tasks.values()),
        warnings=warnings,
    )


class _Events:
    """The distinct event triggers, numbered as they come."""

    def __init__(self, entries: frozenset[str]) -> None:
        self.entries = entries
        self.triggers: list[EventTrigger] = []
        self._numbers: dict[object, int] = {}

    def number(self, event: EventDraft, in_root: bool) -> int:
        """The index of the trigger; a wait and an entry of the same name are two."""
        entry = in_root and event.name in self.entries
        identity = (event.name, event.condition, event.within, entry)
        if identity not in self._numbers:
            index = self._numbers[identity] = len(self.triggers)
            self.triggers.append(EventTrigger(index, event.name, event.where, event.within, entry))
        return self._numbers[identity]


def _spec(task: TaskDraft, events: _Events) -> TaskSpec:
    in_root = task.is_root
    clauses = tuple(
        Clause(clause.ends, tuple(events.number(event, in_root) for event in clause.events)) for clause in task.clauses
    )
    varies = task.when is not None or task.delay is not None or task.concurrency is not None
    return TaskSpec(
        task_id=task.task_id,
        type=task.type,
        inputs=task.inputs,
        clauses=clauses,
        lacks=tuple(clause.size for clause in clauses),
        when=task.when,
        retry=task.retry,
        timeout=task.timeout,
        schedule_to_start=task.schedule_to_start,
        heartbeat=task.heartbeat,
        delay=task.delay,
        delivery=task.delivery,
        concurrency=task.concurrency,
        priority=task.priority,
        proceed_on_failure=task.proceed_on_failure,
        fixed_inputs=None if varies else task.inputs.constant,
        handles=frozenset(
            end.task_id for clause in clauses for end in clause.ends if end.on == "failed" and end.task_id is not None
        ),
    )


def _listeners(triggers: Iterable[EventTrigger]) -> dict[str, tuple[int, ...]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for trigger in triggers:
        found[trigger.name].append(trigger.index)
    return {name: tuple(indexes) for name, indexes in found.items()}


def _event_dependents(tasks: Iterable[TaskSpec], count: int) -> tuple[tuple[Dependent, ...], ...]:
    found: list[list[Dependent]] = [[] for _ in range(count)]
    for task in tasks:
        for number, clause in enumerate(task.clauses):
            for index in clause.events:
                found[index].append(Dependent(task.task_id, number))
    return tuple(map(tuple, found))


def _end_dependents(tasks: Iterable[TaskSpec]) -> dict[str, tuple[EndDependent, ...]]:
    found: defaultdict[str, list[EndDependent]] = defaultdict(list)
    for task in tasks:
        for number, clause in enumerate(task.clauses):
            for end in clause.ends:
                if end.task_id is not None:
                    found[end.task_id].append(EndDependent(task.task_id, number, end.on))
    return {task_id: tuple(dependents) for task_id, dependents in found.items()}


def _any_completion(tasks: Iterable[TaskSpec]) -> tuple[Dependent, ...]:
    return tuple(
        Dependent(task.task_id, number)
        for task in tasks
        for number, clause in enumerate(task.clauses)
        if any(end.task_id is None for end in clause.ends)
    )

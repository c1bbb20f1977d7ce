"""The tasks as written."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import msgspec

from perdure_engine.definitions.definition import Concurrency, Delivery, Retry, TaskEnd
from perdure_engine.definitions.draft import ClauseDraft, TaskDraft
from perdure_engine.definitions.expressions import read_expression, read_template
from perdure_engine.definitions.fields import Fields, kind
from perdure_engine.definitions.keys import type_may_be_missing
from perdure_engine.definitions.names import TASK_ID, wrong_id
from perdure_engine.definitions.report import Report
from perdure_engine.definitions.retries import read_retry
from perdure_engine.definitions.triggers import Triggers
from perdure_engine.templates import Expression, Template, compile_template

MOST_PRIORITY = 100
"""Either way from 0."""


class Defaults(msgspec.Struct, frozen=True):
    """What holds for every task that does not say otherwise."""

    retry: Retry | None = None
    timeout: float | None = None
    schedule_to_start: float | None = None
    heartbeat: float | None = None
    delivery: Delivery | None = None
    priority: int | None = None
    proceed_on_failure: bool = False


def read_defaults(fields: Fields) -> Defaults:
    """The policies of an object that has ``retry``, ``timeout`` and the like: ``defaults``, or a task."""
    retry = read_retry(fields.value["retry"], fields.at("retry"), fields.report) if "retry" in fields else None
    on_failure = fields.choice("on_failure", ("fail", "continue"))
    delivery: Delivery | None = fields.choice("delivery", get_args(Delivery))  # type: ignore[assignment] # as checked
    return Defaults(
        retry, fields.duration("timeout"), fields.duration("schedule_to_start"), fields.duration("heartbeat"), delivery,
        fields.whole("priority", -MOST_PRIORITY, MOST_PRIORITY), on_failure == "continue",
    )  # fmt: skip


def read_tasks(items: list[tuple[str, Any]], defaults: Defaults, report: Report) -> dict[str, TaskDraft]:
    """The tasks by id, in document order; what cannot be one is reported and left out."""
    found: dict[str, Fields] = {}
    again: list[Fields] = []
    for pointer, value in items:
        if not isinstance(value, dict):
            report.fault(pointer, f"a task is an object, not {kind(value)}")
            continue
        fields = Fields(value, "task", pointer, report)
        task_id = _task_id(fields, found)
        if task_id is not None:
            found[task_id] = fields
        else:
            again.append(fields)
    for fields in again:
        # It has no place among the tasks, but its author wants to know of all that is wrong with it.
        _read_task("", fields, found, defaults)
    return {task_id: _read_task(task_id, fields, found, defaults) for task_id, fields in found.items()}


def _task_id(fields: Fields, found: Mapping[str, Fields]) -> str | None:
    fields.require("task_id", "a task's name, unique in its definition")
    task_id = fields.text("task_id")
    if task_id is None:
        return None
    wrong = wrong_id(task_id, TASK_ID, "task id")
    if wrong is None and task_id in found:
        wrong = f"the task id `{task_id}` is taken by {found[task_id].pointer}"
    if wrong is not None:
        fields.report.fault(fields.at("task_id"), wrong)
        # Other tasks may name it: it is known, and only once at fault.
        return task_id if task_id not in found else None
    return task_id


def _read_task(task_id: str, fields: Fields, task_ids: Mapping[str, Any], defaults: Defaults) -> TaskDraft:
    report = fields.report
    if not type_may_be_missing(fields.value):
        fields.require("type", "which handler does the task")
    type_ = fields.text("type")
    inputs = fields.object("inputs") or {}
    own = read_defaults(fields)
    clauses = list(_clauses(fields, Triggers(task_id, task_ids, report)))
    fields.any_text("description")
    return TaskDraft(
        task_id=task_id,
        type=type_ or "",
        pointer=fields.pointer,
        written_inputs=inputs,
        inputs=read_template(inputs, fields.at("inputs"), "inputs", report) or compile_template({}),
        when=_when(fields),
        clauses=_distinct(each for each in clauses if each is not None),
        unclear=None in clauses,
        retry=own.retry or defaults.retry,
        timeout=own.timeout or defaults.timeout,
        schedule_to_start=own.schedule_to_start or defaults.schedule_to_start,
        heartbeat=own.heartbeat or defaults.heartbeat,
        delay=_delay(fields),
        written_delay=fields.value.get("delay"),
        delivery=own.delivery or defaults.delivery,
        concurrency=_concurrency(fields),
        written_key=_written_key(fields),
        priority=next((each for each in (own.priority, defaults.priority) if each is not None), 0),
        proceed_on_failure=own.proceed_on_failure if "on_failure" in fields else defaults.proceed_on_failure,
    )


def _when(fields: Fields) -> Expression | None:
    text = fields.text("when")
    return None if text is None else read_expression(text, fields.at("when"), "when", fields.report)


def _concurrency(fields: Fields) -> Concurrency | None:
    """``concurrency: {key, limit}``, or the key alone: one at once."""
    pointer, written = fields.at("concurrency"), fields.value.get("concurrency")
    if written is None or isinstance(written, str):
        key, limit = fields.text("concurrency"), 1
    else:
        value = fields.object("concurrency")
        if value is None:
            return None
        inner = Fields(value, "concurrency", pointer, fields.report)
        inner.require("key", "a template of the text that counts as one")
        key, limit, pointer = inner.text("key"), inner.whole("limit", 1, 1_000_000) or 1, inner.at("key")
    template = None if key is None else read_template(key, pointer, "concurrency", fields.report)
    return None if template is None else Concurrency(template, limit)


def _written_key(fields: Fields) -> Any:
    written = fields.value.get("concurrency")
    return written.get("key") if isinstance(written, dict) else written


def _delay(fields: Fields) -> Template | None:
    """A duration as written, or a template of one."""
    written = fields.value.get("delay")
    if isinstance(written, str) and "{{" in written:
        return read_template(written, fields.at("delay"), "delay", fields.report)
    seconds = fields.duration("delay", zero=True)
    return None if seconds is None else compile_template(seconds)


def _clauses(fields: Fields, triggers: Triggers) -> Iterator[ClauseDraft | None]:
    """The clauses in normal form: any of them, ``depends_on`` a part of each. None stands for an unreadable part."""
    if "triggers" not in fields and "depends_on" not in fields:
        fields.require("triggers", "what makes the task ready; `[]` is ready at the run's start")
        yield None
        return
    items = fields.items("triggers")
    written = [triggers.clause(value, pointer) for pointer, value in items or ()]
    ends = _depends_on(fields, triggers)
    if None in ends or ("triggers" in fields and items is None):
        yield None
    needed = tuple(dict.fromkeys(end for end in ends if end is not None))
    if not written:
        yield ClauseDraft(fields.at("depends_on" if needed else "triggers"), needed)
    for clause in written:
        yield clause and ClauseDraft(clause.pointer, tuple(dict.fromkeys((*needed, *clause.ends))), clause.events)


def _depends_on(fields: Fields, triggers: Triggers) -> list[TaskEnd | None]:
    if "depends_on" not in fields:
        return []
    named = fields.texts("depends_on", "a task id")
    if named is None:
        return [None]
    unreadable: list[TaskEnd | None] = [None] * (len(fields.value["depends_on"]) - len(named))
    return unreadable + [triggers.end(task_id, "completed", pointer, _hint(task_id)) for pointer, task_id in named]


def _hint(task_id: str) -> str:
    return "; `depends_on` names tasks, and other ends or events go into `triggers`" if "." in task_id else ""


def _distinct(clauses: Iterator[ClauseDraft]) -> tuple[ClauseDraft, ...]:
    """The clauses without those that say what an earlier one said."""
    found: dict[object, ClauseDraft] = {}
    for clause in clauses:
        events = frozenset((event.name, event.condition, event.within) for event in clause.events)
        found.setdefault((frozenset(clause.ends), events), clause)
    return tuple(found.values())

"""Triggers as written (rules 2 and 3): text, an event object, or ``all`` of several."""

from collections.abc import Mapping
from typing import Any, get_args

from perdure_engine.definitions.definition import On, TaskEnd
from perdure_engine.definitions.draft import ClauseDraft, EventDraft
from perdure_engine.definitions.expressions import read_expression
from perdure_engine.definitions.fields import Fields, kind
from perdure_engine.definitions.names import ANY_COMPLETION, RESERVED_EVENTS, wrong_event_name
from perdure_engine.definitions.report import Report

ENDS: Mapping[str, On] = {on: on for on in get_args(On)}

_WRITE_EVENT = 'an outside event of this name is written {{"event": "{}"}}'


class Triggers:
    """Reads the triggers of one task. ``task_ids`` are the tasks of the definition."""

    def __init__(self, task_id: str, task_ids: Mapping[str, Any], report: Report) -> None:
        self.task_id = task_id
        self.task_ids = task_ids
        self.report = report

    def clause(self, value: Any, pointer: str) -> ClauseDraft | None:
        """One item of ``triggers``; None, with a fault, if it cannot be read."""
        if isinstance(value, dict) and "all" in value:
            return self._all(Fields(value, "trigger", pointer, self.report))
        return _clause(pointer, [self._condition(value, pointer)])

    def end(self, task_id: str, on: On, pointer: str, otherwise: str = "") -> TaskEnd | None:
        """The end of a task; None, with a fault, if there is no such task or it is this one."""
        if task_id == self.task_id:
            self.report.fault(pointer, f"`{task_id}` cannot wait for its own end")
            return None
        if task_id not in self.task_ids:
            near = self.report.near(task_id, self.task_ids)
            self.report.fault(pointer, f"there is no task `{task_id}` here{near}{otherwise}")
            return None
        return TaskEnd(task_id, on)

    def _all(self, fields: Fields) -> ClauseDraft | None:
        for key in sorted({"event", "where", "within"} & fields.value.keys()):
            self.report.fault(fields.at(key), f"`{key}` belongs into an item of `all`, not beside it")
        items = fields.items("all")
        if items is None:
            return None
        if not items:
            self.report.fault(fields.at("all"), "`all` names nothing; `triggers: []` is ready at the run's start")
            return None
        return _clause(fields.pointer, [self._condition(each, pointer) for pointer, each in items])

    def _condition(self, value: Any, pointer: str) -> TaskEnd | EventDraft | None:
        if isinstance(value, str):
            return self._written(value, pointer)
        if isinstance(value, dict):
            return self._event(Fields(value, "trigger", pointer, self.report))
        self.report.fault(pointer, f"a trigger is text or an object, not {kind(value)}")
        return None

    def _written(self, text: str, pointer: str) -> TaskEnd | EventDraft | None:
        task_id, dot, end = text.rpartition(".")
        if dot and end in ENDS:
            return self.end(task_id, ENDS[end], pointer, f"; {_WRITE_EVENT.format(text)}")
        if text == ANY_COMPLETION:
            self.report.warn(
                pointer,
                "`task_completed` is the first completion of any other task: which one is meant? "
                "Write `T.completed`, or `depends_on`",
            )
            return TaskEnd(None, "completed")
        if not self._is_event_name(text, pointer):
            return None
        self._warn_of_likely_task(text, task_id, pointer)
        return EventDraft(pointer, text)

    def _event(self, fields: Fields) -> EventDraft | None:
        if "all" in fields:
            self.report.fault(fields.pointer, "`all` holds task ends and events, not another `all`")
            return None
        if "any" not in fields:
            fields.require("event", 'a trigger object is {"event": NAME} or {"all": […]}')
        name = fields.text("event")
        condition = fields.text("where")
        where = None
        if condition is not None:
            where = read_expression(condition, fields.at("where"), "where", self.report)
        within = fields.duration("within")
        if name is None or not self._is_event_name(name, fields.at("event")):
            return None
        return EventDraft(fields.pointer, name, condition, where, within)

    def _is_event_name(self, name: str, pointer: str) -> bool:
        wrong = wrong_event_name(name)
        if wrong is None and name in RESERVED_EVENTS - {ANY_COMPLETION}:
            wrong = f"`{name}` is the engine's own event; the end of task T is `T.completed`, `T.failed` or `T.ended`"
        if wrong is not None:
            self.report.fault(pointer, wrong)
        return wrong is None

    def _warn_of_likely_task(self, text: str, task_id: str, pointer: str) -> None:
        """An event may be called as a task is, but it is rarely meant."""
        if text in self.task_ids:
            likely = f"{text}.completed"
        elif task_id in self.task_ids:
            likely = f"{task_id}.{'failed' if 'fail' in text or 'error' in text else 'completed'}"
        else:
            return
        self.report.warn(pointer, f"`{text}` is an outside event here; the end of the task is written `{likely}`")


def _clause(pointer: str, conditions: list[TaskEnd | EventDraft | None]) -> ClauseDraft | None:
    if None in conditions:
        return None
    ends = dict.fromkeys(each for each in conditions if isinstance(each, TaskEnd))
    events = {
        (each.name, each.condition, each.within): each for each in reversed(conditions) if isinstance(each, EventDraft)
    }
    return ClauseDraft(pointer, tuple(ends), tuple(reversed(events.values())))

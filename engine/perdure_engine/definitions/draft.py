"""A definition between its text and its compiled form: read and typed, every part with its pointer."""

from collections.abc import Mapping
from typing import Any

import msgspec

from perdure_engine.definitions.definition import Concurrency, Delivery, Retry, TaskEnd
from perdure_engine.definitions.names import ANY_COMPLETION
from perdure_engine.templates import Expression, Reference, Template


class EventDraft(msgspec.Struct, frozen=True):
    """An event trigger as written."""

    pointer: str
    name: str
    condition: str | None = None
    where: Expression | None = None
    within: float | None = None


class ClauseDraft(msgspec.Struct, frozen=True):
    """Conditions that must all hold, with the place that asks for them."""

    pointer: str
    ends: tuple[TaskEnd, ...] = ()
    events: tuple[EventDraft, ...] = ()


class TaskDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A task as written."""

    task_id: str
    type: str
    pointer: str
    written_inputs: Mapping[str, Any]
    inputs: Template
    when: Expression | None
    clauses: tuple[ClauseDraft, ...]
    unclear: bool
    """A trigger could not be read: what the task waits for is not known, and nothing is concluded from it."""
    retry: Retry | None
    timeout: float | None
    schedule_to_start: float | None
    heartbeat: float | None
    delay: Template | None
    written_delay: Any
    delivery: Delivery | None
    concurrency: Concurrency | None
    written_key: Any
    priority: int
    proceed_on_failure: bool

    @property
    def references(self) -> frozenset[Reference]:
        """What its inputs, its ``when``, its ``delay`` and its concurrency key name."""
        found = self.inputs.references if self.when is None else self.inputs.references | self.when.references
        found = found if self.delay is None else found | self.delay.references
        return found if self.concurrency is None else found | self.concurrency.key.references

    @property
    def is_root(self) -> bool:
        """No task's end makes it ready (rule 4)."""
        return not self.unclear and not any(clause.ends or _fed_by_tasks(clause) for clause in self.clauses)


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A definition as written. ``tasks`` are in document order; of two with one id the first."""

    workflow_id: str
    tasks: Mapping[str, TaskDraft]
    start: tuple[tuple[str, str], ...] | None
    """The names of the ``start`` list, each with its pointer first."""
    key: Template | None
    fail_fast: bool
    output: Template | None
    written_output: Any
    deadline: float | None


def _fed_by_tasks(clause: ClauseDraft) -> bool:
    return any(event.name == ANY_COMPLETION for event in clause.events)

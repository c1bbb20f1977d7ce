"""What the names in a template mean within a run."""

from collections.abc import Iterator, Mapping
from typing import Any

from perdure_engine.run.state import Occurrence, RunState
from perdure_engine.templates import Lazy, Scope


def run_scope(state: RunState, event: Occurrence, clause_events: tuple[int, ...] = ()) -> Scope:
    """The scope of a template of ``state``; ``event`` is what made the task ready."""
    return Scope(
        input=lambda: state.input.value,
        event=lambda: occurrence_fields(event),
        events=lambda: _events(state, clause_events),
        tasks=_Tasks(state),
        run=lambda: {
            "id": str(state.run_id),
            "workflow_id": state.definition.workflow_id,
            "key": state.start.key,
        },
    )


def event_scope(input_: Any, event: Occurrence) -> Scope:
    """The scope of a ``where`` or a ``key``: what is known when an event arrives."""
    return Scope(input=input_, event=lambda: occurrence_fields(event))


def occurrence_fields(occurrence: Occurrence) -> Mapping[str, Any]:
    """``event.name``, ``event.payload``, ``event.id`` and ``event.key``."""
    return Lazy(
        {
            "name": occurrence.name,
            "payload": lambda: occurrence.payload.value,
            "id": str(occurrence.id) if occurrence.id else None,
            "key": occurrence.key,
        }
    )


def _events(state: RunState, triggers: tuple[int, ...]) -> Mapping[str, Any]:
    return Lazy({occurrence.name or "": occurrence_fields(occurrence)
                 for trigger in triggers if (occurrence := state.latched.get(trigger)) is not None})  # fmt: skip


class _Tasks(Mapping[str, Any]):
    """``tasks``: made field by field as it is asked, for a run may have very many."""

    def __init__(self, state: RunState) -> None:
        self._state = state

    def __getitem__(self, task_id: str) -> Mapping[str, Any]:
        if task_id not in self._state.definition.tasks:
            raise KeyError(task_id)
        task = self._state.task(task_id)
        known: dict[str, Any] = {"status": task.status}
        if (output := task.output) is not None:
            known["output"] = lambda: output.value
        if (error := task.error) is not None:
            known["error"] = lambda: error.value
        return Lazy(known)

    def __iter__(self) -> Iterator[str]:
        return iter(self._state.definition.tasks)

    def __len__(self) -> int:
        return len(self._state.definition.tasks)

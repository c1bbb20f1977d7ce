"""The state of a run: frozen values, shared between versions, counted so that no task's way scans the others.

``array_like``: in a snapshot, their fields without the names.
"""

from typing import Final, Literal
from uuid import UUID

import msgspec
from immutables import Map

from perdure_engine.definitions.definition import Definition, TaskSpec
from perdure_engine.run.events import Outcome
from perdure_eventstore.door import NULL, Json, json_object

TaskStatus = Literal[
    "waiting",
    "delayed",
    "scheduled",
    "started",
    "interrupted",
    "retrying",
    "completed",
    "failed",
    "skipped",
    "cancelled",
]
RunStatus = Literal["new", "open", "stopping", "completed", "failed", "timed_out", "cancelled"]

PENDING: Final = frozenset({"scheduled", "started", "interrupted"})
"""The states in which a node has something to do for a task."""

ENDED: Final = frozenset({"completed", "failed", "skipped", "cancelled"})
"""The states a task never leaves."""

OVER: Final = frozenset({"completed", "failed", "timed_out", "cancelled"})
"""And those a run never leaves."""

DEAD: Final = -1
"""What a clause lacks once it can no longer come true."""


class TaskState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One task of a run. ``lacks`` counts, for each clause of its trigger, the conditions still to come true."""

    lacks: tuple[int, ...]
    status: TaskStatus = "waiting"
    attempt: int = 0
    failures: int = 0
    """Attempts that failed or timed out."""
    crashes: int = 0
    """Attempts whose node died under them."""
    node: UUID | None = None
    at_most_once: bool = False
    """Of the last attempt that started."""
    concurrency_key: str | None = None
    inputs: Json = NULL
    output: Json | None = None
    error: Json | None = None


class Occurrence(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a template's ``event`` means: a published event, or the end of a task."""

    name: str | None
    payload: Json
    id: UUID | None = None
    key: str | None = None


class RunState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One run. Everything here follows from the definition and the run's events."""

    definition: Definition
    status: RunStatus = "new"
    run_id: UUID
    input: Json = NULL
    start: Occurrence = Occurrence(None, NULL)
    """The event that started it."""
    tasks: Map[str, TaskState] = Map()
    """Those that something has touched; see ``task``."""
    latched: Map[int, Occurrence] = Map()
    """Event triggers that have come true."""
    live_waits: Map[int, int] = Map()
    """Event triggers that still may: how many clauses of waiting tasks ask for each."""
    expired: frozenset[int] = frozenset()
    """Event triggers whose time was over before they came true."""
    seen: Map[UUID, bool] = Map()
    """Ids of the events that reached the run."""
    active: int = 0
    """Tasks that are scheduled, under way or on a timer."""
    pending: int = 0
    """Those of them that are not on a timer."""
    paused: bool = False
    ended: int = 0
    unhandled: Map[str, bool] = Map()
    """Tasks that failed, and whose failure nothing has handled yet; a set, and there may be very many."""
    any_completed: bool = False
    outcome: Outcome | None = None
    """How a stopping run will end."""
    stop_reason: str = ""
    output: Json | None = None
    error: Json | None = None

    def task(self, task_id: str) -> TaskState:
        """The state of a task of the definition."""
        return self.tasks.get(task_id) or untouched(self.definition.tasks[task_id])

    @property
    def is_ended(self) -> bool:
        """Whether the run has ended, however."""
        return self.status in OVER

    @property
    def is_parked(self) -> bool:
        """Whether it waits for nothing that a node does: only for events, timers, or to be resumed."""
        if self.pending == 0:
            return not self.is_ended
        return self.paused and all(task.status != "started" for task in self.tasks.values())

    @property
    def shown_status(self) -> str:
        """``status`` for people: an open run that is paused is "paused"."""
        return "paused" if self.paused and self.status == "open" else self.status

    def result(self) -> Json:
        """What a completed run gives: its output template's value, or else the outputs of its completed tasks."""
        if self.output is not None:
            return self.output
        return json_object(
            (task_id, output) for task_id in self.definition.tasks if (output := self.task(task_id).output) is not None
        )


def untouched(spec: TaskSpec) -> TaskState:
    """A task before anything has happened to it."""
    return TaskState(spec.lacks)


def new_run(definition: Definition, run_id: UUID) -> RunState:
    """A run of ``definition`` before its first event."""
    return RunState(definition=definition, run_id=run_id)

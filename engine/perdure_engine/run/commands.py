"""What can be asked of a run. Time, chance and ids come in here; deciding draws none of its own."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from perdure_engine.run.events import Limit, Outcome
from perdure_eventstore.door import Json


class Command(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A wish about a run, at a time."""

    at: datetime


class StartRun(Command, frozen=True, kw_only=True):
    """Begin. ``event`` is the entry event's name, None for a run started with no event."""

    input: Json
    event: str | None = None
    event_id: UUID | None = None
    key: str | None = None


class ReceiveEvent(Command, frozen=True, kw_only=True):
    """A published event that may concern this run."""

    event: str
    event_id: UUID
    payload: Json
    key: str | None = None


class BeginAttempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A slot on ``node`` is free for this scheduled task, whenever. ``at_most_once`` is its delivery there."""

    task_id: str
    node: UUID
    at_most_once: bool = False


class CompleteAttempt(Command, frozen=True, kw_only=True):
    """The handler returned."""

    task_id: str
    attempt: int
    output: Json


class FailAttempt(Command, frozen=True, kw_only=True):
    """The handler raised. ``retry_at`` is when the next attempt would be due, None if this kind is never retried."""

    task_id: str
    attempt: int
    error: Json
    max_attempts: int = 1
    retry_at: datetime | None = None


class TimeOutAttempt(Command, frozen=True, kw_only=True):
    """The attempt took longer than ``timeout`` seconds; the rest as in FailAttempt."""

    task_id: str
    attempt: int
    timeout: float
    limit: Limit = "start_to_close"
    max_attempts: int = 1
    retry_at: datetime | None = None


class InterruptAttempt(Command, frozen=True, kw_only=True):
    """The attempt's node stopped (``clean``) or died."""

    task_id: str
    attempt: int
    clean: bool = False


class CancelAttempt(Command, frozen=True, kw_only=True):
    """The handler was cancelled because the run is stopping, and has ended."""

    task_id: str
    attempt: int


class FireTimer(Command, frozen=True, kw_only=True):
    """A timer of this run is due.

    ``retry`` and ``delay`` of a task, ``start`` by which it should have started, ``wait`` of a trigger, or the run's
    ``deadline``. What follows a start that did not come is as in TimeOutAttempt.
    """

    kind: Literal["retry", "delay", "start", "wait", "deadline"]
    task_id: str = ""
    trigger: int = -1
    max_attempts: int = 1
    retry_at: datetime | None = None


class PauseRun(Command, frozen=True, kw_only=True):
    """Start nothing until ResumeRun."""

    reason: str = ""


class ResumeRun(Command, frozen=True, kw_only=True):
    """Go on after PauseRun."""

    reason: str = ""


class StopRun(Command, frozen=True, kw_only=True):
    """End the run early."""

    outcome: Outcome
    reason: str


AttemptEnd = CompleteAttempt | FailAttempt | TimeOutAttempt | InterruptAttempt | CancelAttempt
"""What may come of an attempt."""

RunCommand = StartRun | ReceiveEvent | BeginAttempt | AttemptEnd | FireTimer | PauseRun | ResumeRun | StopRun

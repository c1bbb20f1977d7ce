"""What can be asked of a run. Time, chance and ids come in here; deciding draws none of its own."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from perdure_engine.run.events import Outcome
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


class BeginAttempt(Command, frozen=True, kw_only=True):
    """A slot on ``node`` is free for this scheduled task."""

    task_id: str
    node: UUID


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
    """A timer of this run is due: ``retry`` of a task, ``wait`` of a trigger, or the run's ``deadline``."""

    kind: Literal["retry", "wait", "deadline"]
    task_id: str = ""
    trigger: int = -1


class StopRun(Command, frozen=True, kw_only=True):
    """End the run early."""

    outcome: Outcome
    reason: str


RunCommand = (
    StartRun
    | ReceiveEvent
    | BeginAttempt
    | CompleteAttempt
    | FailAttempt
    | TimeOutAttempt
    | InterruptAttempt
    | CancelAttempt
    | FireTimer
    | StopRun
)

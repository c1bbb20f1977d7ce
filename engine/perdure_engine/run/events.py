"""What can happen to a run. Each class is an event type of the log, under its own name.

Fields of type ``Json`` or ``PayloadText`` are payload: what users gave or got, kept apart so that it can be encrypted
and erased; one that was erased reads as null. All other fields are the engine's own facts. Times are ISO 8601 in UTC.

An event type that changes gets a higher SCHEMA_VERSION, and a way from the old one to it in ``upcasting``.
"""

from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

import msgspec

from perdure_engine.event_codec import PayloadText
from perdure_eventstore.door import NULL, Json

Outcome = Literal["failed", "timed_out", "cancelled"]

Limit = Literal["start_to_close", "schedule_to_start", "heartbeat"]
"""What took too long: the attempt, the wait for its start, or the time since it last gave a sign of life."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A fact about a run.

    ``gc=False``, here as in the state: no cycle can go through frozen values that refer only to what was there before
    them, and a run of 10,000 tasks costs two to three times as much with the collector walking them again and again.
    """

    SCHEMA_VERSION: ClassVar[int] = 1


class WaitArmed(msgspec.Struct, frozen=True):
    """An outside event the run waits for from its start; ``until`` is when it stops, None for never."""

    trigger: int
    event: str
    until: datetime | None = None


class RunStarted(Event, frozen=True, kw_only=True):
    """The first event of a run. ``latched`` are the triggers that the starting event already holds.

    ``keyed``: the definition says that there is one open run a key, and this is its.
    """

    SCHEMA_VERSION: ClassVar[int] = 2

    workflow_id: str
    digest: str
    event: str | None = None
    event_id: UUID | None = None
    key: PayloadText = None
    keyed: bool = False
    latched: tuple[int, ...] = ()
    waits: tuple[WaitArmed, ...] = ()
    deadline: datetime | None = None
    input: Json = NULL


class TaskDelayed(Event, frozen=True, kw_only=True):
    """A task is ready, and waits until ``until``. The rest as in TaskScheduled; one with no type has no inputs."""

    task_id: str
    until: datetime
    concurrency_key: PayloadText = None
    inputs: Json | None = None


class TaskScheduled(Event, frozen=True, kw_only=True):
    """A task may start. ``inputs`` are the resolved ones, recorded with the first attempt and kept for the others.

    So are those of the ``concurrency_key``: of one key, so many attempts are under way at once as the definition says.
    If it has not started by ``start_by``, the attempt times out; None waits for ever.
    """

    SCHEMA_VERSION: ClassVar[int] = 2

    task_id: str
    attempt: int
    start_by: datetime | None = None
    concurrency_key: PayloadText = None
    inputs: Json | None = None


class TaskStarted(Event, frozen=True, kw_only=True):
    """An attempt may execute on ``node`` from now on. ``at_most_once``: no other is ever made after it."""

    SCHEMA_VERSION: ClassVar[int] = 2

    task_id: str
    attempt: int
    node: UUID
    at_most_once: bool = False


class TaskCompleted(Event, frozen=True, kw_only=True):
    """An attempt succeeded, and with it the task."""

    task_id: str
    attempt: int
    output: Json = NULL


class TaskFailed(Event, frozen=True, kw_only=True):
    """An attempt failed; the next one is due at ``retry_at``, or None and the task has failed.

    Attempt 0 is a task that failed before it could be scheduled, by a guard or a template.
    """

    task_id: str
    attempt: int
    retry_at: datetime | None = None
    error: Json = NULL


class TaskTimedOut(Event, frozen=True, kw_only=True):
    """An attempt took longer than ``timeout`` seconds; ``limit`` says for what. Otherwise as TaskFailed."""

    SCHEMA_VERSION: ClassVar[int] = 2

    task_id: str
    attempt: int
    timeout: float
    limit: Limit = "start_to_close"
    retry_at: datetime | None = None


class TaskInterrupted(Event, frozen=True, kw_only=True):
    """An attempt was under way when its node stopped (``clean``) or died. It does not count as a failure."""

    task_id: str
    attempt: int
    node: UUID
    clean: bool = False


class TaskSkipped(Event, frozen=True, kw_only=True):
    """A task that will not run, and why."""

    task_id: str
    reason: str


class TaskCancelled(Event, frozen=True, kw_only=True):
    """A task that was scheduled, on a timer or under way when its run was stopped."""

    task_id: str
    attempt: int


class EventLatched(Event, frozen=True, kw_only=True):
    """An event of this name made these triggers true, once and for all."""

    SCHEMA_VERSION: ClassVar[int] = 2

    event: str
    event_id: UUID | None = None
    key: PayloadText = None
    triggers: tuple[int, ...]
    payload: Json = NULL


class EventIgnored(Event, frozen=True, kw_only=True):
    """An event reached the run and changed nothing; ``reason`` says why."""

    event: str
    event_id: UUID
    reason: str


class WaitExpired(Event, frozen=True, kw_only=True):
    """A trigger that can no longer come true, because its time is over."""

    trigger: int
    event: str


class RunPaused(Event, frozen=True, kw_only=True):
    """Nothing starts any more until the run is resumed: events latch, timers wait, what is under way goes on."""

    reason: str = ""


class RunResumed(Event, frozen=True, kw_only=True):
    """What was scheduled may start again, and timers that fell due meanwhile fire."""

    reason: str = ""


class RunStopping(Event, frozen=True, kw_only=True):
    """Nothing starts any more; the run ends with ``outcome`` once what is under way has ended."""

    outcome: Outcome
    reason: str


class RunCompleted(Event, frozen=True, kw_only=True):
    """The end. ``output`` is the resolved template; without one the result is the outputs of the tasks."""

    output: Json | None = None


class RunFailed(Event, frozen=True, kw_only=True):
    """The end: these tasks failed and nothing handled it. Without any, ``error`` says why the run failed by itself."""

    tasks: tuple[str, ...] = ()
    error: Json | None = None


class RunTimedOut(Event, frozen=True, kw_only=True):
    """The end: the run's deadline passed."""


class RunCancelled(Event, frozen=True, kw_only=True):
    """The end: somebody cancelled the run."""

    reason: str = ""


RunEnded = RunCompleted | RunFailed | RunTimedOut | RunCancelled
RUN_ENDED = (RunCompleted, RunFailed, RunTimedOut, RunCancelled)

RunEvent = (
    RunStarted
    | TaskDelayed
    | TaskScheduled
    | TaskStarted
    | TaskCompleted
    | TaskFailed
    | TaskTimedOut
    | TaskInterrupted
    | TaskSkipped
    | TaskCancelled
    | EventLatched
    | EventIgnored
    | WaitExpired
    | RunPaused
    | RunResumed
    | RunStopping
    | RunEnded
)

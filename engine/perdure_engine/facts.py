"""The events outside runs: published events, what they met, definitions, and schedules."""

from datetime import datetime
from typing import Any, ClassVar, Literal, get_args
from uuid import UUID

import msgspec

from perdure_engine.event_codec import Codecs, PayloadText
from perdure_eventstore.door import NULL, Json
from perdure_eventstore.events import NewEvent, RecordedEvent


class _Fact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A fact whose payload, if it has one, is its field ``payload``; see ``run.events`` for its version."""

    SCHEMA_VERSION: ClassVar[int] = 1


class EventPublished(_Fact, frozen=True, kw_only=True):
    """Somebody published an event; its id is its stream. ``run`` narrows it to one run."""

    SCHEMA_VERSION: ClassVar[int] = 2

    name: str
    key: PayloadText = None
    run: UUID | None = None
    payload: Json = NULL


class StartRequested(_Fact, frozen=True, kw_only=True):
    """Somebody asked in SQL for a run, whose input is the payload. Its stream is computed from ``run``."""

    workflow_id: str
    run: UUID
    event: str | None = None
    key: PayloadText = None
    payload: Json = NULL


class Match(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a published event did to one workflow."""

    workflow_id: str
    outcome: Literal["started", "delivered", "ignored"]
    run: UUID | None = None
    reason: str = ""


class EventRouted(_Fact, frozen=True, kw_only=True):
    """A published event was matched against every definition and every wait; nothing was forgotten if this is empty.

    After a ``StartRequested`` it says what came of the request.
    """

    matches: tuple[Match, ...] = ()
    reason: str = ""
    """Why nothing matched."""


class DefinitionRegistered(_Fact, frozen=True, kw_only=True):
    """Version ``number`` of a workflow; its document is the payload."""

    workflow_id: str
    number: int
    digest: str
    payload: Json = NULL


class DefinitionRetired(_Fact, frozen=True, kw_only=True):
    """The workflow starts no new runs from here on; those under way go on."""

    workflow_id: str
    number: int


Overlap = Literal["skip", "queue", "allow", "cancel_other"]
"""What a schedule does that is due while the run it started last is open."""

CatchUp = Literal["all", "last", "none"]
"""Which times a schedule makes up for that passed while no node was there."""


class ScheduleSet(_Fact, frozen=True, kw_only=True):
    """A schedule was made or changed. Its runs' input is the payload; the rest as in ``StartRequested``."""

    name: str
    workflow_id: str
    cron: str
    timezone: str
    overlap: Overlap
    catch_up: CatchUp
    next_due: datetime
    event: str | None = None
    key: PayloadText = None
    payload: Json = NULL


class SchedulePaused(_Fact, frozen=True, kw_only=True):
    """Nothing is started from here on, of backfills neither."""

    reason: str = ""


class ScheduleResumed(_Fact, frozen=True, kw_only=True):
    """It goes on; what fell due while it was paused is passed over."""

    next_due: datetime


class ScheduleDeleted(_Fact, frozen=True, kw_only=True):
    """It is no more; runs under way go on."""


class ScheduleFired(_Fact, frozen=True, kw_only=True):
    """What came of the time ``due``, which is never looked at again unless it was queued.

    It was its turn by the clock, in the queue, or in a backfill. ``next_due`` follows one by the clock.
    """

    due: datetime
    turn: Literal["clock", "queue", "backfill"]
    outcome: Literal["started", "queued", "skipped", "refused"]
    run: UUID | None = None
    reason: str = ""
    next_due: datetime | None = None


class ScheduleMissed(_Fact, frozen=True, kw_only=True):
    """Every time from ``first`` on and before ``next_due`` passed while no node was there, and is not made up for."""

    first: datetime
    next_due: datetime


class BackfillRequested(_Fact, frozen=True, kw_only=True):
    """Somebody wants a run for every time from ``start`` to ``end`` that has none."""

    start: datetime
    end: datetime
    overlap: Literal["queue", "allow"]


class BackfillPlanned(_Fact, frozen=True, kw_only=True):
    """The next times of the oldest backfill that have no run yet; ``upto`` is where it goes on from."""

    due: tuple[datetime, ...] = ()
    upto: datetime
    ended: bool = False


Fact = (
    EventPublished
    | StartRequested
    | EventRouted
    | DefinitionRegistered
    | DefinitionRetired
    | ScheduleSet
    | SchedulePaused
    | ScheduleResumed
    | ScheduleDeleted
    | ScheduleFired
    | ScheduleMissed
    | BackfillRequested
    | BackfillPlanned
)

ScheduleFact = (
    ScheduleSet
    | SchedulePaused
    | ScheduleResumed
    | ScheduleDeleted
    | ScheduleFired
    | ScheduleMissed
    | BackfillRequested
    | BackfillPlanned
)
"""What a schedule's stream holds."""

_CODECS = Codecs(get_args(Fact))

FACT_TYPES: dict[str, type[Any]] = _CODECS.types
"""Every one of these event types by its name in the log."""


class FactRefused(ValueError):
    """A fact that could not be read again. The message says which, and why."""


def encode_fact(fact: Fact, metadata: bytes = b"{}", id_: UUID | None = None) -> NewEvent:
    """``fact`` as an event to append. Raises FactRefused for what could not be read again."""
    try:
        event = _CODECS.encode(fact, metadata, id_)
        _CODECS.check(event)
    except (ValueError, TypeError) as error:
        raise FactRefused(f"a {type(fact).__name__} cannot be recorded: {error}") from error
    return event


def decode_fact(recorded: RecordedEvent) -> Any:
    """The fact that was recorded, old versions as today's. Raises UnreadableEvent for what is none of these."""
    return _CODECS.decode(recorded)

"""A schedule as its events leave it. Pure."""

from datetime import datetime
from typing import Literal, assert_never
from uuid import UUID

import msgspec
from msgspec.structs import replace

from perdure_engine.facts import (
    BackfillPlanned,
    BackfillRequested,
    CatchUp,
    Overlap,
    ScheduleDeleted,
    ScheduleFact,
    ScheduleFired,
    ScheduleMissed,
    SchedulePaused,
    ScheduleResumed,
    ScheduleSet,
)
from perdure_engine.schedules.cron import Cron


class Backfill(msgspec.Struct, frozen=True):
    """What is left of a backfill: the times from ``start`` to ``end``, both included."""

    start: datetime
    end: datetime
    overlap: Literal["queue", "allow"]


class Waiting(msgspec.Struct, frozen=True):
    """A backfill's time that is to have a run."""

    due: datetime
    overlap: Literal["queue", "allow"]


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule now. Times are in UTC."""

    id: UUID
    """Its stream in the log."""
    name: str
    workflow_id: str
    cron: str
    timezone: str
    overlap: Overlap
    catch_up: CatchUp
    set_by: int
    """The version of the event that has its input and its key."""
    paused: bool = False
    next_due: datetime
    """When it is due next; while it is paused, nothing comes of that."""
    last_due: datetime | None = None
    """The time for which it started a run last."""
    last_run: UUID | None = None
    """The run it started last."""
    queue: tuple[datetime, ...] = ()
    """Times that wait for the run before them to end."""
    backlog: tuple[Waiting, ...] = ()
    """Times of backfills that are to be started next."""
    backfills: tuple[Backfill, ...] = ()
    """Backfills that are not planned to their end, oldest first."""

    @property
    def times(self) -> Cron:
        """When it is due. Raises WrongCron, WrongZone where this machine has no such zone."""
        return Cron.of(self.cron, self.timezone)

    @property
    def has_more(self) -> bool:
        """Whether something is to be done besides what the clock brings."""
        return not self.paused and bool(self.queue or self.backlog or self.backfills)


def evolve(schedule: Schedule | None, fact: ScheduleFact, stream: UUID, version: int) -> Schedule | None:
    """The schedule after one more event of its stream; None before it was set, and after it was deleted."""
    if isinstance(fact, ScheduleSet):
        return _set(schedule, fact, stream, version)
    if schedule is None:
        return None
    match fact:
        case SchedulePaused():
            return replace(schedule, paused=True)
        case ScheduleResumed():
            return replace(schedule, paused=False, next_due=fact.next_due)
        case ScheduleDeleted():
            return None
        case ScheduleFired():
            return _fired(schedule, fact)
        case ScheduleMissed():
            return replace(schedule, next_due=fact.next_due)
        case BackfillRequested():
            asked = Backfill(fact.start, fact.end, fact.overlap)
            return replace(schedule, backfills=(*schedule.backfills, asked))
        case BackfillPlanned():
            first, *rest = schedule.backfills
            more = tuple(Waiting(due, first.overlap) for due in fact.due)
            left = [] if fact.ended else [replace(first, start=fact.upto)]
            return replace(schedule, backlog=schedule.backlog + more, backfills=(*left, *rest))
        case _:
            assert_never(fact)


def _set(schedule: Schedule | None, fact: ScheduleSet, stream: UUID, version: int) -> Schedule:
    changed = {
        "workflow_id": fact.workflow_id,
        "cron": fact.cron,
        "timezone": fact.timezone,
        "overlap": fact.overlap,
        "catch_up": fact.catch_up,
        "next_due": fact.next_due,
        "set_by": version,
    }
    if schedule is None:
        return Schedule(id=stream, name=fact.name, **changed)  # type: ignore[arg-type]
    return replace(schedule, **changed)


def _fired(schedule: Schedule, fact: ScheduleFired) -> Schedule:
    queue, backlog, next_due = schedule.queue, schedule.backlog, schedule.next_due
    match fact.turn:
        case "clock":
            next_due = fact.next_due or next_due
        case "queue":
            queue = tuple(due for due in queue if due != fact.due)
        case "backfill":
            backlog = tuple(each for each in backlog if each.due != fact.due)
    if fact.outcome == "queued":
        queue = (*queue, fact.due)
    schedule = replace(schedule, queue=queue, backlog=backlog, next_due=next_due)
    if fact.outcome != "started":
        return schedule
    return replace(schedule, last_due=fact.due, last_run=fact.run)

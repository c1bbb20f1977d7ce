"""What a schedule does next: its overlap and catch-up policies. Pure: the clock and what is open come in."""

from datetime import datetime, timedelta
from itertools import islice
from typing import Literal, NamedTuple

from perdure_engine.facts import BackfillPlanned, ScheduleFired, ScheduleMissed
from perdure_engine.schedules.schedule import Schedule

GRACE = timedelta(minutes=1)
"""How late a time is still on time, where none is made up for."""

MOST_QUEUED = 1_000
"""Times that may wait for the run before them; the next are skipped."""

AT_ONCE = 100
"""Times of a backfill that are planned at once."""


class Seen(NamedTuple):
    """What the log says."""

    now: datetime
    is_open: bool
    """The run that was started last has not ended."""
    started: frozenset[datetime] = frozenset()
    """Of the times asked about (``asks``), those that have a run."""


class Start(NamedTuple):
    """Start the run for ``due``, and record what came of it."""

    due: datetime
    turn: Literal["clock", "queue", "backfill"]


class Record(NamedTuple):
    """Record this, having asked the open run to stop if ``cancel``."""

    facts: tuple[ScheduleFired | ScheduleMissed | BackfillPlanned, ...]
    cancel: bool = False


class Plan(NamedTuple):
    """Find out which of these have no run, and record them with ``planned``."""

    due: tuple[datetime, ...]
    upto: datetime
    ended: bool

    def without(self, started: frozenset[datetime]) -> Record:
        """What is recorded, leaving those out that have one."""
        due = tuple(each for each in self.due if each not in started)
        return Record((BackfillPlanned(due=due, upto=self.upto, ended=self.ended),))


def asks(schedule: Schedule, now: datetime) -> list[tuple[datetime, Literal["clock", "queue", "backfill"]]]:
    """The times whose turn it may be now: for each it has to be known whether it has a run."""
    found: list[tuple[datetime, Literal["clock", "queue", "backfill"]]] = []
    found += [(due, "queue") for due in schedule.queue[:1]]
    if schedule.next_due <= now:
        found.append((schedule.next_due, "clock"))
    return found + [(each.due, "backfill") for each in schedule.backlog[:1]]


def decide(schedule: Schedule, seen: Seen) -> Start | Record | Plan | None:
    """The next step; None if there is nothing to do but wait. To be asked again after each."""
    for due, turn in asks(schedule, seen.now):
        if due in seen.started:
            # Between its start and the record its node died, or it was paused: whatever is said by now, it was started.
            return Start(due, turn)
    if schedule.paused:
        return None
    if schedule.queue and (not seen.is_open or schedule.overlap == "allow"):
        return Start(schedule.queue[0], "queue")
    if schedule.next_due <= seen.now:
        return _missed(schedule, seen.now) or _due(schedule, seen)
    return _backfill(schedule, seen)


def _missed(schedule: Schedule, now: datetime) -> Record | None:
    """What the catch-up policy gives up, if anything."""
    first, times = schedule.next_due, schedule.times
    match schedule.catch_up:
        case "all":
            return None
        case "last":
            resumed = times.latest(first, now)
        case "none":
            resumed = first if first >= now - GRACE else times.after(now - GRACE - timedelta(microseconds=1))
    return Record((ScheduleMissed(first=first, next_due=resumed),)) if resumed > first else None


def _due(schedule: Schedule, seen: Seen) -> Start | Record:
    """What the overlap policy makes of the time that is due."""
    due, run = schedule.next_due, schedule.last_run
    if not seen.is_open or schedule.overlap == "allow":
        return Start(due, "clock")
    next_due = schedule.times.after(due)

    def fired(outcome: Literal["queued", "skipped"], reason: str) -> ScheduleFired:
        return ScheduleFired(due=due, turn="clock", outcome=outcome, reason=reason, next_due=next_due)

    if schedule.overlap == "skip":
        return Record((fired("skipped", f"run {run} is open"),))
    if schedule.overlap == "queue":
        if len(schedule.queue) >= MOST_QUEUED:
            return Record((fired("skipped", f"run {run} is open, and {MOST_QUEUED} times wait for it already"),))
        return Record((fired("queued", f"run {run} is open"),))
    later = f"the time {due.isoformat()} came before run {run} had stopped"
    replaced = [ScheduleFired(due=each, turn="queue", outcome="skipped", reason=later) for each in schedule.queue]
    return Record((*replaced, fired("queued", f"run {run} is asked to stop")), cancel=True)


def _backfill(schedule: Schedule, seen: Seen) -> Start | Plan | None:
    if schedule.backlog:
        first = schedule.backlog[0]
        is_free = first.overlap == "allow" or not (seen.is_open or schedule.queue)
        return Start(first.due, "backfill") if is_free else None
    if not schedule.backfills:
        return None
    backfill = schedule.backfills[0]
    due = tuple(islice(schedule.times.between(backfill.start, backfill.end), AT_ONCE))
    ended = len(due) < AT_ONCE
    upto = backfill.end if ended else due[-1] + timedelta(seconds=1)
    return Plan(due, upto, ended)

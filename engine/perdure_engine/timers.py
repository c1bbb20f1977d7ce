"""Timers: rows of the log's working set, and one wake-up of APScheduler's for the earliest."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from perdure_engine.bound import Bound
from perdure_engine.run import events as e
from perdure_engine.run.commands import FireTimer
from perdure_eventstore.session import Session

_BATCH = 1_000
_JOB = "next timer"
_SLACK = timedelta(milliseconds=20)
"""After which the scheduler is not waited for."""
_SOON = timedelta(seconds=60)
"""Longer than from one look to the next: what is due later is found by then."""
_LATE = timedelta(seconds=60)
"""By which a timer may be due before it is there, such as one that was set while the database was out of reach."""


class Timer(NamedTuple):
    """A timer row: ``timer`` is "retry:TASK", "delay:TASK", "start:TASK", "wait:TRIGGER" or "deadline"."""

    run: UUID
    timer: str
    due: datetime

    def command(self, at: datetime) -> FireTimer:
        """What its run is told."""
        kind, _, subject = self.timer.partition(":")
        match kind:
            case "retry" | "delay" | "start":
                return FireTimer(at=at, kind=kind, task_id=subject)
            case "wait":
                return FireTimer(at=at, kind="wait", trigger=int(subject))
            case "deadline":
                return FireTimer(at=at, kind="deadline")
            case _:
                raise LookupError(f"there is no timer {self.timer!r}")


def due_times(event: e.RunEvent) -> Sequence[datetime]:
    """When the timers are due that ``event`` sets."""
    match event:
        case e.TaskScheduled(start_by=due) | e.TaskFailed(retry_at=due) | e.TaskTimedOut(retry_at=due):
            return () if due is None else (due,)
        case e.TaskDelayed():
            return (event.until,)
        case e.RunStarted():
            waits = [wait.until for wait in event.waits if wait.until is not None]
            return waits if event.deadline is None else [*waits, event.deadline]
        case _:
            return ()


class Timers:
    """Fires what is due in batches. The rows are the truth; the scheduler's one job may be lost at any time."""

    def __init__(
        self,
        session: Session,
        schema: str,
        fence: tuple[UUID, int],
        *,
        now: Callable[[], datetime],
        wake: Callable[[], None],
    ) -> None:
        """``fence`` is the node and its epoch; ``now`` the database's time; ``wake`` is called when one is due."""
        self._session, self._fence = session, fence
        self._now, self._wake = now, wake
        self._next: datetime | None = None
        self._stopped = False
        self._alarm: asyncio.TimerHandle | None = None
        """Goes off if the scheduler does not."""
        self._scheduler = AsyncIOScheduler(
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}, timezone="UTC"
        )
        # A fired timer's row is deleted in the append that its run makes of it, so it may be read more than once.
        self._bound = Bound[datetime](datetime.min.replace(tzinfo=UTC))
        self._due = f"""select run, timer, due from "{schema}".timers
            where shard = any(%s) and due > %s and due <= %s and not held order by due limit {_BATCH}"""
        # One look into the index a shard: a plain min() would read every timer of the future. And no further than it is
        # of use: of deadlines that were met the rows may be dead and still there.
        self._earliest = f"""select min(first.due) from unnest(%s::smallint[]) as mine (shard)
            cross join lateral (select due from "{schema}".timers t where t.shard = mine.shard
                                and t.due > %s and t.due <= %s and not t.held order by due limit 1) first"""
        # The fence, and the very row that was read: a woken sleeper shall not delete its heir's timer.
        self._delete = f"""delete from "{schema}".timers where run = %s and timer = %s and due = %s
            and exists (select from "{schema}".nodes n where n.node = %s and n.epoch = %s)"""

    def start(self) -> None:
        """Begin to wake."""
        self._scheduler.start()

    def stop(self) -> None:
        """Wake no more, whatever is noted."""
        self._stopped = True
        self._silence()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def note(self, due: datetime) -> None:
        """A timer was written: wake for it if it comes before the one already waited for."""
        if not self._stopped and (self._next is None or due < self._next):
            self._next = due
            # The scheduler goes by this machine's clock, the timer by the database's.
            wait = max(due - self._now(), timedelta(0))
            local = datetime.now(due.tzinfo) + wait
            self._scheduler.add_job(self._fire, "date", run_date=local, id=_JOB, replace_existing=True)
            # Once that clock is set back, the scheduler would wait for the same time to come again.
            self._silence()
            self._alarm = asyncio.get_running_loop().call_later((wait + _SLACK).total_seconds(), self._overdue)

    def look(self, *, old: bool = True) -> None:
        """There may be timers that nobody noted; ``old``: such as have been due for long."""
        if old:
            self._bound.lift()
        self._wake()

    async def due(self, shards: Sequence[int], at: datetime) -> list[Timer]:
        """What is due at ``at``, earliest first, at most one batch."""
        above = self._bound.above()
        timers = [Timer(*row) for row in await self._session.fetch(self._due, (list(shards), above, at))]
        if not timers:
            # A timer that is due already when it is set has a time near to now.
            self._bound.seen(at - _LATE)
            self._bound.exhausted()
        return timers

    async def arm(self, shards: Sequence[int], after: datetime) -> None:
        """Wake for the earliest timer that is due soon after ``after``: when ``due`` was asked, so that none slips."""
        self._next = None
        earliest = (await self._session.fetch(self._earliest, (list(shards), after, after + _SOON)))[0][0]
        if earliest is not None:
            self.note(earliest)

    async def delete(self, timer: Timer) -> None:
        """Forget a timer whose run has no use for it."""
        await self._session.fetch(self._delete, (*timer, *self._fence))

    async def _fire(self) -> None:
        # Only a call to somebody else: the scheduler skips a job that is due while it still runs.
        self._overdue()

    def _overdue(self) -> None:
        self._silence()
        self._next = None
        self._wake()

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

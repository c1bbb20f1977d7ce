"""What programs ask of schedules: set, pause, resume, delete, backfill, look. The nodes do the rest."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from perdure_engine.facts import (
    BackfillRequested,
    ScheduleDeleted,
    ScheduleFact,
    SchedulePaused,
    ScheduleResumed,
    ScheduleSet,
    decode_fact,
    encode_fact,
)
from perdure_engine.identity import schedule_stream
from perdure_engine.registry import Registry
from perdure_engine.schedules.rows import Known, ScheduleRows, row_of
from perdure_engine.schedules.schedule import Schedule, evolve
from perdure_engine.schedules.wanted import (
    LONGEST_NAME,
    ScheduleRefused,
    Wanted,
    check_backfill,
    check_reason,
    is_name,
)
from perdure_engine.starting import WrongStart, start_command
from perdure_eventstore.append import Append
from perdure_eventstore.appender import Appender
from perdure_eventstore.errors import Conflict
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.keeper import KEEPING
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

MOST_TIMES = 10_000
"""Times in the range of one backfill."""
MOST_BACKFILLS = 100
"""Backfills of one schedule that are not done yet."""


class UnknownSchedule(LookupError):
    """No schedule has this name."""

    def __init__(self, name: object, known: Sequence[str]) -> None:
        near = get_close_matches(str(name)[:LONGEST_NAME], known, n=3)
        there = f"did you mean {' or '.join(near)}?" if near else f"there are {len(known)}" if known else "none is set"
        super().__init__(f"there is no schedule {name!r:.80}; {there}")


class Happened(NamedTuple):
    """An event of a schedule's stream."""

    recorded: RecordedEvent
    fact: ScheduleFact


Decision = Callable[[Schedule | None, datetime], ScheduleFact | None]
"""From a schedule, if it is there, and the time, to what is to be recorded; None if nothing is."""


class Book:
    """Reads and changes schedules. A change that meets another one is decided anew."""

    def __init__(
        self,
        session: Session,
        appender: Callable[[], Appender],
        registry: Registry,
        schema: str,
        vault: "Vault | None" = None,
    ) -> None:
        """``appender`` gives the one to append with now."""
        self._appender, self._registry = appender, registry
        self._rows, self._reader = ScheduleRows(session, schema), Reader(session, schema, vault)

    async def set(self, wanted: Wanted) -> Schedule:
        """Make or change a schedule; the same again changes nothing. Raises ScheduleRefused, UnknownWorkflow."""
        cron, now = wanted.checked(), await self._rows.now()
        active = await self._registry.active(wanted.workflow_id)
        definition = await self._registry.definition(active.digest)
        try:
            start_command(definition, now, wanted.input, wanted.event, wanted.key)
        except WrongStart as error:
            raise ScheduleRefused(str(error)) from error
        there = await self._find(wanted.name)
        if there is None and await self._rows.is_erased(schedule_stream(wanted.name)):
            raise ScheduleRefused(f"schedule {wanted.name} was deleted and erased: take another name")
        unchanged = there.schedule.set_by if there and await self._last_set(there) == wanted else 0

        def decide(schedule: Schedule | None, now: datetime) -> ScheduleSet | None:
            if schedule is None:
                return wanted.fact(cron.after(now))
            if schedule.set_by == unchanged:
                return None
            same = (schedule.cron, schedule.timezone) == (wanted.cron, wanted.timezone)
            return wanted.fact(schedule.next_due if same else cron.after(now))

        schedule = await self._change(wanted.name, decide)
        assert schedule is not None
        return schedule

    async def pause(self, name: str, reason: str = "") -> Schedule:
        """Start nothing more, of its backfills neither. Raises UnknownSchedule, ScheduleRefused."""
        check_reason(reason)

        def decide(schedule: Schedule | None, _now: datetime) -> SchedulePaused | None:
            return None if schedule is None or schedule.paused else SchedulePaused(reason=reason)

        return await self._change_known(name, decide)

    async def resume(self, name: str) -> Schedule:
        """Go on with the next time there is. Raises UnknownSchedule."""

        def decide(schedule: Schedule | None, now: datetime) -> ScheduleResumed | None:
            if schedule is None or not schedule.paused:
                return None
            return ScheduleResumed(next_due=schedule.times.after(now))

        return await self._change_known(name, decide)

    async def delete(self, name: str) -> Schedule:
        """Forget it, as it was returned; runs under way go on. Raises UnknownSchedule."""
        schedule = await self.get(name)
        await self._change(name, lambda schedule, _now: None if schedule is None else ScheduleDeleted())
        return schedule

    async def backfill(self, name: str, start: datetime, end: datetime, overlap: str | None = None) -> Schedule:
        """Ask for a run of every time from ``start`` to ``end`` that has none; of one that is paused, once it goes on.

        Raises UnknownSchedule, ScheduleRefused.
        """
        start, end = check_backfill(start, end, overlap)
        schedule = await self.get(name)
        if (now := await self._rows.now()) < end:
            raise ScheduleRefused(
                f"the backfill ends at {end.isoformat()}, and it is {now.isoformat(timespec='seconds')}: what is to "
                "come is the schedule's own"
            )
        # Ten thousand take about a second.
        times = await asyncio.to_thread(lambda: [*islice(schedule.times.between(start, end), MOST_TIMES + 1)])
        if not times:
            raise ScheduleRefused(f"{name} is never due from {start.isoformat()} to {end.isoformat()}")
        if len(times) > MOST_TIMES:
            raise ScheduleRefused(
                f"{name} is due more than {MOST_TIMES:,} times from {start.isoformat()} to {end.isoformat()}: ask for "
                f"it in parts, the first until {times[-2].isoformat()}"
            )

        def decide(schedule: Schedule | None, _now: datetime) -> BackfillRequested | None:
            if schedule is None:
                return None
            if len(schedule.backfills) >= MOST_BACKFILLS:
                raise ScheduleRefused(f"{MOST_BACKFILLS} backfills of {name} are not done yet: wait until some are")
            allowed = "allow" in (overlap, schedule.overlap) and overlap != "queue"
            return BackfillRequested(start=start, end=end, overlap="allow" if allowed else "queue")

        return await self._change_known(name, decide)

    async def all(self) -> list[Schedule]:
        """Every schedule, by name."""
        return [known.schedule for known in await self._rows.all()]

    async def get(self, name: str) -> Schedule:
        """One of them. Raises UnknownSchedule."""
        if (known := await self._find(name)) is None:
            raise UnknownSchedule(name, [each.name for each in await self.all()])
        return known.schedule

    async def history(self, name: str, last: int = 10) -> list[Happened]:
        """The last events of a schedule, oldest first; also of one that was deleted."""
        if not is_name(name):
            return []
        stream = schedule_stream(name)
        head = await self._reader.head(stream)
        return [
            Happened(recorded, decode_fact(recorded))
            async for recorded in self._reader.stream(stream, after=max(0, head.version - last))
            if recorded.type not in KEEPING
        ]

    async def _find(self, name: str) -> Known | None:
        return await self._rows.get(schedule_stream(name)) if is_name(name) else None

    async def _last_set(self, known: Known) -> Wanted | None:
        """What was wanted last; None if it cannot be told any more."""
        async for recorded in self._reader.stream(known.schedule.id, after=known.schedule.set_by - 1, batch=1):
            fact = decode_fact(recorded)
            if recorded.payload is None or not isinstance(fact, ScheduleSet):
                return None
            return Wanted.of(fact)
        return None

    async def _change_known(self, name: str, decide: Decision) -> Schedule:
        await self.get(name)
        schedule = await self._change(name, decide)
        if schedule is None:
            raise UnknownSchedule(name, [each.name for each in await self.all()])
        return schedule

    async def _change(self, name: str, decide: Decision) -> Schedule | None:
        stream = schedule_stream(name)
        while True:
            known = await self._rows.get(stream)
            appender = self._appender()
            # One that was deleted goes on with its stream.
            head = known.head if known is not None else await self._reader.head(stream)
            before = known.schedule if known is not None else None
            fact = decide(before, await self._rows.now())
            if fact is None:
                return before
            after = evolve(before, fact, stream, head.version + 1)
            append = Append(stream, head, [encode_fact(fact)], row_of(stream, after, tell=True), announce=True)
            try:
                await appender.append(append)
            except Conflict:
                continue
            return after

"""What may be asked of schedules: whatever is wrong is said before anything is recorded. Pure."""

from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple, get_args

from perdure_engine.facts import CatchUp, Overlap, ScheduleSet
from perdure_engine.reasons import wrong_reason
from perdure_engine.schedules.cron import Cron, WrongZone
from perdure_engine.schedules.crontab import WrongCron
from perdure_eventstore.door import Json

LONGEST_NAME: Final = 200
EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""From when on there are backfills."""


class ScheduleRefused(ValueError):
    """A schedule cannot be like this; the message says what would be right."""


class Wanted(NamedTuple):
    """A schedule as somebody wants it."""

    name: str
    workflow_id: str
    cron: str
    timezone: str
    input: Json
    event: str | None
    key: str | None
    overlap: Overlap
    catch_up: CatchUp

    def checked(self) -> Cron:
        """When it would be due. Raises ScheduleRefused for what is wrong in itself."""
        if not is_name(self.name):
            raise ScheduleRefused(
                f"a schedule's name is 1 to {LONGEST_NAME} printable characters, not {self.name!r:.60}"
            )
        for what, given, known in (
            ("overlap", self.overlap, get_args(Overlap)),
            ("catch_up", self.catch_up, get_args(CatchUp)),
        ):
            if given not in known:
                raise ScheduleRefused(f"{what} is one of {', '.join(known)}, not {given!r:.60}")
        try:
            return Cron(self.cron, self.timezone)
        except (WrongCron, WrongZone) as error:
            raise ScheduleRefused(str(error)) from error

    def fact(self, next_due: datetime) -> ScheduleSet:
        """What is recorded of it."""
        return ScheduleSet(
            name=self.name, workflow_id=self.workflow_id, cron=self.cron, timezone=self.timezone,
            overlap=self.overlap, catch_up=self.catch_up, next_due=next_due, event=self.event, key=self.key,
            payload=self.input,
        )  # fmt: skip

    @classmethod
    def of(cls, fact: ScheduleSet) -> "Wanted":
        """What was recorded."""
        return cls(
            fact.name, fact.workflow_id, fact.cron, fact.timezone, fact.payload, fact.event, fact.key, fact.overlap,
            fact.catch_up,
        )  # fmt: skip


def is_name(name: object) -> bool:
    """Whether a schedule may have this name."""
    # No surrogate and no control character can be printed.
    return isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and name.isprintable()


def check_reason(reason: str) -> None:
    """Raises ScheduleRefused for what cannot be recorded."""
    if why := wrong_reason(reason):
        raise ScheduleRefused(why)


def check_backfill(start: datetime, end: datetime, overlap: str | None) -> tuple[datetime, datetime]:
    """Both ends in UTC. Raises ScheduleRefused."""
    start, end = _in_utc("start", start), _in_utc("end", end)
    if start > end:
        raise ScheduleRefused(f"the backfill ends at {end.isoformat()}, before it starts at {start.isoformat()}")
    if overlap not in (None, "queue", "allow"):
        raise ScheduleRefused(f"a backfill's overlap is 'queue' (one after the other) or 'allow', not {overlap!r:.60}")
    return start, end


def _in_utc(what: Literal["start", "end"], moment: datetime) -> datetime:
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise ScheduleRefused(f"a backfill's {what} is a datetime with a time zone, not {moment!r:.80}")
    wrong = ScheduleRefused(
        f"a backfill's {what} is a time from {EARLIEST.year} to {datetime.max.year} in UTC, not {moment.isoformat()}"
    )
    try:
        in_utc = moment.astimezone(UTC)
    except OverflowError as error:
        raise wrong from error
    if in_utc < EARLIEST:
        raise wrong
    return in_utc

"""When a schedule is due: a cron expression in a time zone. Pure: instants in, instants out.

Where the clocks change, as cron does it. A time of day that does not exist that day is due once, at the moment the gap
ends; one that comes twice is due the first time alone. An expression with every hour in it asks for an interval: it
goes by the time that passes, through gap and repetition alike.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from apscheduler.triggers.cron import CronTrigger

from perdure_engine.schedules.crontab import WrongCron, read_crontab

_SECOND = timedelta(seconds=1)


class WrongZone(ValueError):
    """There is no such time zone; the message names near ones."""


class Cron:
    """The moments, in UTC, that an expression names in a time zone."""

    def __init__(self, expression: str, zone: str) -> None:
        """Raises WrongCron, WrongZone."""
        self.zone = _zone(zone)
        triggers, self._hourly = read_crontab(expression)
        self._triggers = [trigger for trigger in triggers if _ever_comes(trigger)]
        if not self._triggers:
            raise WrongCron(f"the cron expression {expression!r:.80} names a day that never comes")

    @classmethod
    def of(cls, expression: str, zone: str) -> "Cron":
        """The same, read once. Raises WrongCron, WrongZone."""
        return _read(expression, zone)

    def after(self, moment: datetime) -> datetime:
        """The first moment later than ``moment``."""
        moment = moment.astimezone(UTC).replace(microsecond=0)
        return self._by_elapsed(moment) if self._hourly else self._by_wall(moment)

    def latest(self, first: datetime, now: datetime) -> datetime:
        """The last moment up to ``now``; ``first`` is one, and not later than that."""
        span = timedelta(minutes=1)
        while now - span > first:
            if (found := self.after(now - span)) <= now:
                break
            span *= 2
        else:
            found = first
        while (later := self.after(found)) <= now:
            found = later
        return found

    def between(self, first: datetime, last: datetime) -> Iterator[datetime]:
        """Every moment from ``first`` to ``last``, both included."""
        moment = self.after(first - timedelta(microseconds=1))
        while moment <= last:
            yield moment
            moment = self.after(moment)

    def local(self, moment: datetime) -> datetime:
        """``moment`` on this zone's clocks."""
        return moment.astimezone(self.zone)

    def _by_wall(self, moment: datetime) -> datetime:
        """Times of day: each wall-clock time once, at its first instant or at the end of the gap it fell into."""
        wall = self._next_wall(self._wall(moment))
        # In the second pass of a repeated hour, the times of the first are behind us.
        while (instant := self._instant(wall)) <= moment:
            wall = self._next_wall(wall)
        return instant

    def _instant(self, wall: datetime) -> datetime:
        instant = wall.replace(tzinfo=self.zone).astimezone(UTC)
        if self._wall(instant) == wall:
            return instant
        # It does not exist. Read with the offset from before the gap, it lies behind it by as much as it lay inside.
        before = wall.replace(tzinfo=self.zone, fold=1).astimezone(UTC)
        return self._change(before, instant)

    def _by_elapsed(self, moment: datetime) -> datetime:
        """An interval: on to the next time on the clock as it runs, looking anew where it is changed."""
        wall = self._wall(moment)
        while True:
            found = self._next_wall(wall)
            instant = moment + (found - wall)
            if self._wall(instant) == found:
                return instant
            changed = self._change(moment, instant)
            # The time to which the clock is set may be one itself.
            moment, wall = changed - _SECOND, self._wall(changed) - _SECOND

    def _change(self, before: datetime, after: datetime) -> datetime:
        """The moment between the two at which the clocks are changed, to the second."""
        offset = self.local(before).utcoffset()
        while after - before > _SECOND:
            middle = before + (after - before) // (2 * _SECOND) * _SECOND
            if self.local(middle).utcoffset() == offset:
                before = middle
            else:
                after = middle
        return after

    def _wall(self, moment: datetime) -> datetime:
        return self.local(moment).replace(tzinfo=None)

    def _next_wall(self, wall: datetime) -> datetime:
        begin = (wall + _SECOND).replace(microsecond=0, tzinfo=UTC)
        found = [trigger.get_next_fire_time(None, begin) for trigger in self._triggers]
        nearest: datetime = min(next_ for next_ in found if next_ is not None)
        return nearest.replace(tzinfo=None)


def _ever_comes(trigger: CronTrigger) -> bool:
    """Whether it names a day within half a century, which has every weekday on 29 February; asked once."""
    first = datetime(2000, 1, 1, tzinfo=UTC)
    trigger.end_date = first.replace(year=2050)
    comes: bool = trigger.get_next_fire_time(None, first) is not None
    trigger.end_date = None
    return comes


@lru_cache(maxsize=1_000)
def _read(expression: str, zone: str) -> Cron:
    return Cron(expression, zone)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError, AttributeError):
        near = get_close_matches(str(name)[:60], sorted(available_timezones()), n=3)
        meant = f"; did you mean {' or '.join(near)}?" if near else ", but Europe/Berlin is one, and UTC"
        raise WrongZone(f"there is no time zone {name!r:.60}{meant}") from None

"""A cron expression, read as cron reads it, as APScheduler's triggers over wall-clock time.

APScheduler counts weekdays from Monday and wants both days to match; it takes ``mon#1`` for ``mon``. So what is written
is checked here, weekdays are spelled out, and where day of month and weekday are both restricted, either is enough.
"""

import re
from datetime import UTC
from typing import NamedTuple

from apscheduler.triggers.cron import CronTrigger

MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


class _Field(NamedTuple):
    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()
    """What its numbers may be called, from ``first`` on."""


_MINUTE, _HOUR, _DAY = _Field("minute", 0, 59), _Field("hour", 0, 23), _Field("day of month", 1, 31)
_MONTH, _WEEKDAY = _Field("month", 1, 12, _MONTHS), _Field("day of week", 0, 7, _WEEKDAYS)
_PART = re.compile(r"(?:\*|(?P<first>[a-z]+|\d{1,2})(?:-(?P<last>[a-z]+|\d{1,2}))?)(?:/(?P<step>\d{1,2}))?", re.ASCII)


class WrongCron(ValueError):
    """No cron expression; the message says what would be one."""


class Crontab(NamedTuple):
    """The wall-clock times an expression names: those of any of ``triggers``, which read them as UTC."""

    triggers: tuple[CronTrigger, ...]
    hourly: bool
    """Every hour of a day has some: what is asked for is an interval, not a time of day."""


def read_crontab(expression: str) -> Crontab:
    """The times of ``expression``. Raises WrongCron."""
    if not isinstance(expression, str):
        raise WrongCron(f"a cron expression is text such as '0 9 * * mon-fri', not {expression!r:.60}")
    fields = MACROS.get(expression.strip().lower(), expression.lower()).split()
    if len(fields) != 5:
        raise WrongCron(
            f"the cron expression {expression!r:.80} has {len(fields)} fields and not five: minute, hour, "
            f"day of month, month, day of week, as in '0 9 * * mon-fri'; or it is one of {', '.join(MACROS)}"
        )
    try:
        minute, hour, month = (_values(field, text) for field, text in zip(_OF_TIME, _times(fields), strict=True))
        days, weekdays = _days(fields[2]), _values(_WEEKDAY, fields[4])
    except WrongCron as error:
        raise WrongCron(f"the cron expression {expression!r:.80}: {error}") from error
    names = ",".join(sorted({_WEEKDAYS[number % 7] for number in weekdays}))
    common = {"minute": _list(minute), "hour": _list(hour), "month": _list(month), "timezone": UTC}
    hourly = len(hour) == 24
    if fields[2].startswith("*") or fields[4].startswith("*"):
        return Crontab((CronTrigger(day=days, day_of_week=names, **common),), hourly)
    return Crontab((CronTrigger(day=days, **common), CronTrigger(day_of_week=names, day="*", **common)), hourly)


_OF_TIME = (_MINUTE, _HOUR, _MONTH)


def _times(fields: list[str]) -> tuple[str, str, str]:
    return fields[0], fields[1], fields[3]


def _days(text: str) -> str:
    """The days of the month, as APScheduler wants them: it knows ``last``, the month's last day."""
    parts = text.split(",")
    numbers = ",".join(part for part in parts if part != "last")
    found = [_list(_values(_DAY, numbers))] if numbers or "last" not in parts else []
    return ",".join(found + ["last"] * ("last" in parts))


def _list(values: set[int]) -> str:
    return ",".join(map(str, sorted(values)))


def _values(field: _Field, text: str) -> set[int]:
    """Every number that the text of a field names. Raises WrongCron."""
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise WrongCron(
                f"{part!r:.40} is no {field.name}: write *, {field.first}, a-b or a list, each with a /step"
            )
        step = int(match["step"] or 1)
        if not 1 <= step <= field.last:
            raise WrongCron(f"the step of {part!r} is not between 1 and {field.last}, for a {field.name}")
        first = field.first if match["first"] is None else _number(field, match["first"])
        # A single value with a step goes on to the end, as */step does; the 7 that is Sunday again is no end.
        end = 6 if field is _WEEKDAY else field.last
        last = end if match["first"] is None or match["step"] else first
        if match["last"] is not None:
            last = _number(field, match["last"])
            if field is _WEEKDAY and last == 0 < first:
                # fri-sun: the week may begin with either.
                last = 7
        if first > last:
            raise WrongCron(f"{part!r} ends before it begins, for a {field.name}")
        found.update(range(first, last + 1, step))
    return found


def _number(field: _Field, text: str) -> int:
    if text in field.names:
        return field.first + field.names.index(text)
    if text.isdigit() and field.first <= int(text) <= field.last:
        return int(text)
    names = f", or {field.names[0]} to {field.names[-1]}" if field.names else ""
    raise WrongCron(f"{text!r:.60} is no {field.name}: it is {field.first} to {field.last}{names}")

"""Durations: a number of seconds, or text such as ``90s``, ``15m``, ``2h``, ``1d``, ``500ms``."""

import math
import re

DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 36_500 * 86_400.0
"""A hundred years: a due time must stay within what Postgres and Python call a date."""


def parse_duration(value: object, *, zero: bool = False) -> float:
    """The duration in seconds.

    Raises ValueError, with a sentence, for anything else; for zero unless ``zero`` is true; for negative, infinite
    and NaN; and for more than a hundred years.
    """
    seconds = _seconds(value)
    if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not zero):
        raise ValueError(f"a duration is {'not negative' if zero else 'more than zero'} and finite, not {value!r:.60}")
    if seconds > _LONGEST:
        raise ValueError(f"a duration is at most 36500d, not {value!r:.60}")
    return seconds


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and (match := DURATION.fullmatch(value.strip())):
        return float(match[1]) * _SECONDS[match[2]]
    raise ValueError(f'a duration is a number of seconds or text like "90s", "15m", "2h", "1d", not {value!r:.60}')

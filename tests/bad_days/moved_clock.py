"""A process whose own clock is set, forwards or back, as it runs."""

import sys
import time
from datetime import datetime, timedelta, tzinfo
from typing import Any

_THEIRS = ("perdure", "apscheduler")


class MovedClock:
    """What this process takes for the time of day; time that only passes (``time.monotonic``) is left alone."""

    def __init__(self) -> None:
        """From now on, for whoever has imported ``datetime`` by now."""
        self.seconds = 0.0
        now, now_ns = time.time, time.time_ns
        time.time = lambda: now() + self.seconds
        time.time_ns = lambda: now_ns() + round(self.seconds * 1e9)
        moved = self._datetime()
        for name, module in list(sys.modules.items()):
            if name.startswith(_THEIRS) and getattr(module, "datetime", None) is datetime:
                module.datetime = moved  # type: ignore[attr-defined] # it has one

    def _datetime(self) -> type:
        clock = self

        class Meta(type):
            def __instancecheck__(cls, instance: object) -> bool:
                return isinstance(instance, datetime)

        class Moved(datetime, metaclass=Meta):
            def __new__(cls, *arguments: Any, **named: Any) -> datetime:  # type: ignore[misc] # no Moved is ever made
                return datetime(*arguments, **named)

            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override] # nor here
                return datetime.now(tz) + timedelta(seconds=clock.seconds)

        return Moved

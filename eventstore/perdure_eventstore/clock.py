"""The database's clock, read without asking it each time."""

import time
from datetime import UTC, datetime, timedelta
from typing import Final

POSTGRES_EPOCH: Final = 946_684_800_000_000
"""µs from 1970 to 2000, from which Postgres counts in its binary form."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_PASSING: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_BEGAN: Final = time.time_ns() - time.clock_gettime_ns(_PASSING)


class Clock:
    """Now, in µs since 1970, on a local clock that nobody sets, corrected to the database's.

    Every answer of the log carries the database's time; ``correct`` takes it in. Half the round trip is the error.
    Between two answers time only passes: that somebody sets this machine's clock makes nothing due sooner or later.
    """

    def __init__(self) -> None:
        self._offset = 0

    def now(self) -> int:
        """Now in µs since 1970 by the database's clock, as far as known."""
        return self.local() + self._offset

    def moment(self) -> datetime:
        """The same as a datetime, in UTC."""
        return _EPOCH + timedelta(microseconds=self.now())

    def correct(self, database: int, sent: int, received: int) -> None:
        """Take in that the database's clock showed ``database`` µs between two local times (µs, ``local``)."""
        offset = database - (sent + received) // 2
        # A slow answer says little: believe it only as far as it must be true.
        slack = (received - sent) // 2
        if abs(offset - self._offset) > slack:
            self._offset = offset

    @staticmethod
    def local() -> int:
        """The uncorrected local time in µs since 1970, as it was when this process began and has passed since."""
        return (_BEGAN + time.clock_gettime_ns(_PASSING)) // 1000

"""What the tests of schedules share: a clock that is set by hand, in the place of the database's."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from logs import rows
from pytest import MonkeyPatch

from perdure_engine.facts import ScheduleFact, ScheduleFired, decode_fact
from perdure_engine.identity import schedule_stream
from perdure_engine.schedules.rows import ScheduleRows
from perdure_eventstore.events import RecordedEvent

NOON = datetime(2031, 5, 6, 12, 0, 30, tzinfo=UTC)
"""A Tuesday, half a minute past."""


class HandClock:
    """What schedules take for the database's time."""

    def __init__(self, monkeypatch: MonkeyPatch, moment: datetime = NOON) -> None:
        self.moment = moment

        async def now(_rows: ScheduleRows) -> datetime:
            return self.moment

        monkeypatch.setattr(ScheduleRows, "now", now)

    def pass_by(self, **length: float) -> None:
        self.moment += timedelta(**length)


def at(hour: int, minute: int = 0, day: int = 6) -> datetime:
    """A time of that day, or of one near it."""
    return NOON.replace(day=day, hour=hour, minute=minute, second=0)


def happened(url: str, name: str) -> list[ScheduleFact]:
    """The events of a schedule."""
    columns = ", ".join(RecordedEvent._fields)
    found = rows(
        url, f"select {columns} from perdure.events where stream = %s order by version", (schedule_stream(name),)
    )
    return [decode_fact(_recorded(row)) for row in found]


def _recorded(row: Any) -> RecordedEvent:
    recorded = RecordedEvent._make(row)
    return recorded._replace(data=orjson.dumps(recorded.data), metadata=orjson.dumps(recorded.metadata))


def fired(url: str, name: str) -> list[tuple[str, datetime]]:
    """What came of each time."""
    return [(fact.outcome, fact.due) for fact in happened(url, name) if isinstance(fact, ScheduleFired)]


def runs(url: str) -> list[UUID]:
    """Every run, oldest first."""
    return [
        run for (run,) in rows(url, "select stream from perdure.events where type = 'RunStarted' order by position")
    ]

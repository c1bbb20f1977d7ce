"""This machine's clock is set, forwards or back, or changed for summer, while a timer waits: it is due all the same."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import pytest
from freezegun import freeze_time
from freezegun.api import TickingDateTimeFactory

from perdure_engine.timers import Timers
from perdure_eventstore.session import Session

SUMMER = datetime(2026, 3, 29, 0, 59, 59, 900_000, tzinfo=UTC)
"""A tenth of a second before the clocks of Berlin are put forward."""
WINTER = datetime(2026, 10, 25, 0, 59, 59, 900_000, tzinfo=UTC)
"""And back."""


class Node:
    """A node's timers; the database's clock goes on, whatever this machine's does."""

    def __init__(self, moment: datetime) -> None:
        self.loop, self.rows, self.woken = asyncio.get_running_loop(), list[datetime](), list[datetime]()
        self._moment, self._begun = moment, self.loop.time()
        self.timers = Timers(cast(Session, self), "perdure", (uuid4(), 1), now=self.now, wake=self._wake)
        self.timers.start()

    def now(self) -> datetime:
        return self._moment + timedelta(seconds=self.loop.time() - self._begun)

    async def fetch(self, statement: str, parameters: Any) -> list[Any]:
        """In the place of a session: the earliest row."""
        return [(min((due for due in self.rows if due > parameters[1]), default=None),)]

    def _wake(self) -> None:
        """As a node does: whatever is due fires, and the next is waited for."""
        looked = self.now()
        if due := [each for each in self.rows if each <= looked]:
            self.woken += [looked] * len(due)
            self.rows = [each for each in self.rows if each > looked]
        self.loop.create_task(self.timers.arm([1], looked))

    def set(self, seconds: float) -> datetime:
        """A timer that is due in so many seconds."""
        due = self.now() + timedelta(seconds=seconds)
        self.rows.append(due)
        self.timers.note(due)
        return due


@pytest.fixture(params=["UTC", "Europe/Berlin"])
async def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The zone of this machine."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


async def fired(node: Node, *due: datetime) -> None:
    """Each fired, none before it was due, and none much later."""
    async with asyncio.timeout(5):
        while len(node.woken) < len(due):
            await asyncio.sleep(0.005)
    late = [(woken - each).total_seconds() for woken, each in zip(sorted(node.woken), sorted(due), strict=True)]
    assert all(0 <= each < 0.5 for each in late), late


@pytest.mark.parametrize("moment", [SUMMER, WINTER], ids=["spring", "autumn"])
async def test_daylight_saving_makes_no_difference_to_a_timer(zone: str, moment: datetime) -> None:
    with freeze_time(moment, tick=True, real_asyncio=True):
        node = Node(moment)
        await fired(node, node.set(0.05), node.set(0.3), node.set(0.6))
        node.timers.stop()


@pytest.mark.parametrize("hours", [-24 * 400, -1, -0.001, 0.001, 1, 24 * 400])
async def test_a_clock_that_is_set_while_a_timer_waits_makes_no_difference(zone: str, hours: float) -> None:
    with freeze_time(SUMMER, tick=True, real_asyncio=True) as clock:
        assert isinstance(clock, TickingDateTimeFactory)
        node = Node(SUMMER)
        due = [node.set(0.3), node.set(0.6)]
        await asyncio.sleep(0.1)
        clock.tick(timedelta(hours=hours))
        due.append(node.set(0.4))
        await asyncio.sleep(0.1)
        clock.tick(timedelta(hours=-2 * hours))
        await fired(node, *due)
        node.timers.stop()


async def test_a_clock_that_stands_still_delays_no_timer() -> None:
    with freeze_time(SUMMER, real_asyncio=True):
        node = Node(SUMMER)
        await fired(node, node.set(0.2), node.set(0.4))
        node.timers.stop()

"""One wake-up for the earliest timer, however far the database's clock is from this machine's."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import pytest

from perdure_engine.timers import Timers
from perdure_eventstore.session import Session


class Rows:
    """In the place of a session: what ``timers`` holds."""

    def __init__(self) -> None:
        self.due: list[datetime] = []

    async def fetch(self, statement: str, parameters: Any) -> list[Any]:
        _, after, until = parameters
        return [(min((each for each in self.due if after < each <= until), default=None),)]


class Clock:
    """A node's timers, with note of when they woke it."""

    def __init__(self, ahead: timedelta) -> None:
        self.ahead = ahead
        self.rows = Rows()
        self.woken: list[float] = []
        self.timers = Timers(cast(Session, self.rows), "perdure", (uuid4(), 1), now=self.now, wake=self.wake)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def wake(self) -> None:
        self.woken.append(time.monotonic())

    async def woken_in(self, count: int, seconds: float = 2.0) -> float:
        """How long it takes until it was woken ``count`` times."""
        began = time.monotonic()
        async with asyncio.timeout(seconds):
            while len(self.woken) < count:
                await asyncio.sleep(0.002)
        return time.monotonic() - began


@pytest.fixture
async def make() -> AsyncIterator[Callable[[float], Clock]]:
    made: list[Clock] = []

    def new(ahead: float) -> Clock:
        made.append(Clock(timedelta(seconds=ahead)))
        made[-1].timers.start()
        return made[-1]

    yield new
    for clock in made:
        clock.timers.stop()


@pytest.mark.parametrize("ahead", [0.0, 600.0, -600.0, 86_400.0])
async def test_a_timer_is_due_by_the_databases_clock(make: Callable[[float], Clock], ahead: float) -> None:
    clock = make(ahead)
    clock.timers.note(clock.now() + timedelta(seconds=0.2))
    assert 0.15 < await clock.woken_in(1) < 1.0


async def test_what_is_past_due_wakes_at_once(make: Callable[[float], Clock]) -> None:
    clock = make(600.0)
    clock.timers.note(clock.now() - timedelta(days=400))
    assert await clock.woken_in(1) < 0.2


async def test_a_nearer_timer_comes_before_one_in_ten_minutes(make: Callable[[float], Clock]) -> None:
    clock = make(0.0)
    clock.timers.note(clock.now() + timedelta(minutes=10))
    clock.timers.note(clock.now() + timedelta(seconds=0.1))
    clock.timers.note(clock.now() + timedelta(minutes=20))
    assert await clock.woken_in(1) < 1.0


async def test_one_in_ten_minutes_wakes_nobody_now(make: Callable[[float], Clock]) -> None:
    clock = make(0.0)
    clock.timers.note(clock.now() + timedelta(minutes=10))
    await asyncio.sleep(0.2)
    assert clock.woken == []


async def test_arming_takes_the_earliest_row_that_is_to_come(make: Callable[[float], Clock]) -> None:
    clock = make(600.0)
    clock.rows.due = [clock.now() - timedelta(1), clock.now() + timedelta(seconds=0.1), clock.now() + timedelta(1)]
    await clock.timers.arm([1], clock.now())
    assert 0.05 < await clock.woken_in(1) < 1.0


async def test_what_fell_due_since_the_last_look_is_armed_as_well(make: Callable[[float], Clock]) -> None:
    clock = make(0.0)
    looked = clock.now()
    clock.rows.due = [looked + timedelta(milliseconds=10), looked + timedelta(minutes=10)]
    await asyncio.sleep(0.05)
    await clock.timers.arm([1], looked)
    assert await clock.woken_in(1) < 0.5


async def test_timers_that_follow_each_other_closely_each_wake(make: Callable[[float], Clock]) -> None:
    clock = make(0.0)
    for count in range(1, 20):
        clock.timers.note(clock.now() + timedelta(milliseconds=1))
        await clock.woken_in(count)

"""From where on a queue is read: at a distance behind what was seen, and now and then from the beginning."""

import pytest
from monotonic_clock import MonotonicClock

from perdure_engine import bound as module
from perdure_engine.bound import Bound


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MonotonicClock:
    return MonotonicClock(monkeypatch, module)


def test_it_follows_what_was_seen_at_a_distance(clock: MonotonicClock) -> None:
    bound = Bound(0)
    bound.seen(7)
    clock.now += 4
    assert bound.above() == 0, "a lower one may still appear"
    clock.now += 2
    assert bound.above() == 7


def test_once_a_minute_everything_is_read_until_nothing_is_left(clock: MonotonicClock) -> None:
    bound = Bound(0)
    bound.seen(7)
    clock.now += 59
    bound.exhausted()
    assert bound.above() == 7
    clock.now += 2
    assert [bound.above() for _ in range(3)] == [0, 0, 0]
    bound.exhausted()
    assert bound.above() == 7


def test_who_read_nothing_from_the_beginning_has_not_swept(clock: MonotonicClock) -> None:
    bound = Bound(0)
    bound.seen(7)
    clock.now += 59
    assert bound.above() == 7
    clock.now += 2
    bound.exhausted()
    assert bound.above() == 0


def test_lifted_everything_is_read_and_what_was_seen_counts_no_more(clock: MonotonicClock) -> None:
    bound = Bound(0)
    bound.seen(7)
    clock.now += 10
    assert bound.above() == 7
    bound.lift()
    assert bound.above() == 0
    bound.exhausted()
    assert bound.above() == 0

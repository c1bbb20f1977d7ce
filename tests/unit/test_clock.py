"""The corrected clock."""

from datetime import UTC, datetime
from unittest.mock import patch

from perdure_eventstore.clock import Clock


def test_the_moment_is_the_corrected_time_exactly() -> None:
    clock = Clock()
    with patch.object(Clock, "local", return_value=1_700_000_000_123_456):
        assert clock.moment() == datetime(2023, 11, 14, 22, 13, 20, 123_456, UTC)
        local = clock.local()
        clock.correct(local + 3_000_001, local, local)
        assert clock.moment() == datetime(2023, 11, 14, 22, 13, 23, 123_457, UTC)


def test_setting_the_machines_clock_makes_no_difference() -> None:
    clock = Clock()
    before = clock.now()
    with patch("time.time_ns", return_value=0), patch("time.time", return_value=0.0):
        assert 0 <= clock.now() - before < 10_000_000

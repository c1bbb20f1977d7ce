"""Rule 15: when the next attempt is due."""

from datetime import timedelta

import pytest

from perdure_engine.definitions.definition import Retry
from perdure_engine.retries import DEFAULT, retry_at

from .given import AT

A_HUNDRED_YEARS = 36_500 * 86_400.0


def wait(policy: Retry, failures: int) -> float:
    """Seconds between a failure and the next attempt."""
    return (retry_at(policy, failures, AT) - AT).total_seconds()


def test_rule_15_by_default_a_second_doubling_up_to_a_minute_with_up_to_a_second_of_jitter() -> None:
    assert DEFAULT.attempts == 3
    for failures, least in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (50, 60)]:
        assert least <= wait(DEFAULT, failures) <= least + 1
    assert len({wait(DEFAULT, 1) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("policy", "waits"),
    [
        (Retry(initial=10, multiplier=3, maximum=100, jitter=0), [10, 30, 90, 100, 100]),
        (Retry(initial=5, multiplier=1, maximum=60, jitter=0), [5, 5, 5]),
        (Retry(initial=0, multiplier=2, maximum=60, jitter=0), [0, 0, 0]),
    ],
)
def test_each_wait_is_the_one_before_times_the_multiplier_up_to_the_maximum(policy: Retry, waits: list[float]) -> None:
    assert [wait(policy, failures) for failures in range(1, len(waits) + 1)] == waits


@pytest.mark.parametrize(
    ("policy", "seconds"),
    [
        (Retry(multiplier=2, jitter=0), 60),
        (Retry(multiplier=1e308, jitter=0), 60),
        (Retry(initial=0, multiplier=2, jitter=0), 0),
        (Retry(initial=0, multiplier=1e308, jitter=0), 0),
        (Retry(maximum=A_HUNDRED_YEARS, jitter=0), A_HUNDRED_YEARS),
        (Retry(maximum=float("inf"), jitter=0), A_HUNDRED_YEARS),
        (Retry(initial=float("inf"), maximum=float("inf"), jitter=0), A_HUNDRED_YEARS),
        (Retry(maximum=float("nan"), jitter=0), A_HUNDRED_YEARS),
    ],
)
def test_however_often_it_failed_the_next_attempt_is_due_at_a_date(policy: Retry, seconds: float) -> None:
    for failures in (1_025, 100_000, 1_000_000):
        assert wait(policy, failures) == seconds


def test_a_retry_is_due_after_the_failure_and_not_after_now() -> None:
    later = AT + timedelta(days=400)
    assert retry_at(Retry(jitter=0), 1, later) == later + timedelta(seconds=1)

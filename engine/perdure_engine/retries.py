"""When a failed attempt is tried again: a policy, turned into tenacity's waits."""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from tenacity import RetryCallState
from tenacity.wait import wait_base, wait_exponential, wait_none, wait_random

from perdure_engine.definitions.definition import Retry

DEFAULT = Retry()
"""The engine's own policy, where neither the definition nor the task type has one."""

_LONGEST = 36_500 * 86_400.0
"""Seconds. A due time must be a date, whatever a policy made in code says; a definition's own is checked."""


@lru_cache(maxsize=256)
def _waits(policy: Retry) -> wait_base:
    # A power too great for a float gives tenacity's wait its maximum, which is wrong for a first wait of nothing.
    growing = wait_exponential(multiplier=policy.initial, exp_base=float(policy.multiplier), max=policy.maximum)
    return (growing if policy.initial else wait_none()) + wait_random(0, policy.jitter)


def retry_at(policy: Retry, failures: int, at: datetime) -> datetime:
    """When the next attempt is due after the ``failures``-th failure (from 1) at ``at``. Draws the jitter."""
    unused: Any = None
    call = RetryCallState(retry_object=unused, fn=None, args=(), kwargs={})
    call.attempt_number = failures
    return at + timedelta(seconds=min(_LONGEST, _waits(policy)(call)))

"""Trying again, less and less often, what could not be done yet."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential, wait_random

from perdure_eventstore.errors import LogUnavailable

T = TypeVar("T")
Told = Callable[[BaseException, float], None]

_JITTER = 0.1


async def patiently(
    work: Callable[[], Awaitable[T]],
    on: type[Exception] = LogUnavailable,
    *,
    first: float = 0.05,
    most: float = 2.0,
    told: Told | None = None,
) -> T:
    """Do ``work`` until it no longer raises ``on``, and return its answer; without a limit. Raises what else it raises.

    The pauses between tries double from ``first`` seconds to ``most``, up to a tenth of a second added at random.
    ``told`` is called with each error and the pause that follows it.
    """

    def before_sleep(state: RetryCallState) -> None:
        if told is not None and state.outcome is not None and (error := state.outcome.exception()) is not None:
            told(error, state.upcoming_sleep)

    again = AsyncRetrying(
        retry=retry_if_exception_type(on),
        wait=wait_exponential(multiplier=first, max=most) + wait_random(0, _JITTER),
        before_sleep=before_sleep,
    )
    return await again(work)

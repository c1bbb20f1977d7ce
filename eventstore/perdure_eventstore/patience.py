"""Trying again, less and less often, what could not be done yet."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_delay,
    stop_never,
    wait_exponential,
    wait_random,
)

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
    within: float | None = None,
) -> T:
    """Do ``work`` until it no longer raises ``on``, and return its answer. Raises what else it raises.

    There is no limit; with ``within`` the last try begins so many seconds after the first, and its error is raised.

    The pauses between tries double from ``first`` seconds to ``most``, up to a tenth of a second added at random.
    ``told`` is called with each error and the pause that follows it.
    """

    async def attempt() -> T:
        # Tenacity awaits what it can tell to be asynchronous, and a lambda is not.
        return await work()

    def before_sleep(state: RetryCallState) -> None:
        if told is not None and state.outcome is not None and (error := state.outcome.exception()) is not None:
            told(error, state.upcoming_sleep)

    again = AsyncRetrying(
        retry=retry_if_exception_type(on),
        wait=wait_exponential(multiplier=first, max=most) + wait_random(0, _JITTER),
        before_sleep=before_sleep,
        stop=stop_never if within is None else stop_after_delay(within),
        reraise=True,
    )
    return await again(attempt)

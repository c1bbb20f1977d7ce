"""A background duty, done again and again."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential, wait_random

from perdure_eventstore.errors import LogError, LogUnavailable
from perdure_eventstore.vault.errors import VaultError

log = structlog.get_logger(__name__)

_LOCKED_OUT = 5.0
"""Seconds before a duty that met what it cannot decrypt is done again."""

_WAITS = wait_exponential(multiplier=0.05, max=2.0) + wait_random(0, 0.1)


async def repeat(duty: Callable[[], Awaitable[None]], interval: float, wake: asyncio.Event | None = None) -> None:
    """Do ``duty`` every ``interval`` seconds, and at once when ``wake`` is set; a lost log makes it wait longer.

    An error of its own is logged and the duty done again: nothing but the log's errors, FenceLost above all, ends it.
    """
    while True:
        if wake is not None:
            wake.clear()
        await patiently(partial(_once, duty))
        if wake is None:
            await asyncio.sleep(interval)
            continue
        with suppress(TimeoutError):
            async with asyncio.timeout(interval):
                await wake.wait()


async def patiently(work: Callable[[], Awaitable[None]]) -> None:
    """Do ``work`` until the log can be reached for it. Raises what else it raises."""
    async for attempt in AsyncRetrying(retry=retry_if_exception_type(LogUnavailable), wait=_WAITS):
        with attempt:
            await work()


async def _once(duty: Callable[[], Awaitable[None]]) -> None:
    try:
        await duty()
    except LogError:
        raise
    except VaultError as error:
        log.error("a duty of the node is held up", duty=duty.__qualname__, error=str(error))
        await asyncio.sleep(_LOCKED_OUT)
    except Exception:
        log.exception("a duty of the node failed, it will be done again", duty=duty.__qualname__)

"""Waiting for a run's end leaves nothing behind."""

import asyncio
from uuid import uuid4

import pytest

from perdure_engine.endings import Endings


async def test_a_wait_that_is_cancelled_leaves_nothing_behind() -> None:
    endings, run = Endings(), uuid4()
    other = asyncio.create_task(endings.wait(run, 0.1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await endings.wait(run, 60)
    assert len(endings._waiting[run]) == 1
    await other
    assert not endings._waiting

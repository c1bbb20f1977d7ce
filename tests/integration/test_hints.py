"""What one node has for another is announced: nobody waits for the next poll."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from applications import new_app, recorder, shards, task, until, workflow

import perdure
from perdure_engine.identity import shard_of

POLL = 60.0


@pytest.fixture
async def pair(database_url: str) -> AsyncIterator[tuple[perdure.App, perdure.App]]:
    """Two nodes that look by themselves once a minute."""
    first, second = (new_app(database_url, poll=POLL, lease=10.0) for _ in range(2))
    recorder(first, "left"), recorder(second, "right")
    async with AsyncExitStack() as stack:
        for app in (first, second):
            await stack.enter_async_context(app.node(views=False))
        await until(lambda: sorted(map(len, shards(database_url).values())) == [32, 32], 15)
        yield first, second


async def test_an_event_for_a_run_of_another_node(pair: tuple[perdure.App, perdure.App]) -> None:
    first, second = pair
    waits = workflow("waits", task("a", {"event": "came", "within": "1h"}, type="left"), task("b", type="left"))
    await first.register(waits, allow_unknown_types=True)
    runs = [await first.start("waits") for _ in range(8)]
    await asyncio.sleep(0.5)
    begun = time.monotonic()
    for run in runs:
        await second.publish("came", run=run.run_id)
    for run in runs:
        await run.result(timeout=10)
    assert time.monotonic() - begun < 5


async def test_an_attempt_for_another_node_and_what_came_of_it(pair: tuple[perdure.App, perdure.App]) -> None:
    first, _ = pair
    both = workflow("both", task("a", type="left"), task("b", "a.completed", type="right"))
    await first.register(both, allow_unknown_types=True)
    begun = time.monotonic()
    runs = [await first.start("both") for _ in range(8)]
    for run in runs:
        await run.result(timeout=10)
    assert time.monotonic() - begun < 5


async def test_a_run_that_a_client_starts_and_one_that_it_cancels(
    pair: tuple[perdure.App, perdure.App], database_url: str
) -> None:
    first, _ = pair
    await first.register(workflow("one", task("a", type="left", delay="1h")))
    async with new_app(database_url, poll=POLL) as client:
        begun = time.monotonic()
        runs = [await client.start("one") for _ in range(8)]
        assert {shard_of(run.run_id) for run in runs}
        for run in runs:
            await client.cancel(run.run_id)
        for run in runs:
            with pytest.raises(perdure.RunCancelled):
                await run.result(timeout=10)
        assert time.monotonic() - begun < 5

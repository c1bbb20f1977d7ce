"""Asking together: one question for all who ask within a moment."""

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from perdure_engine.open_runs import AskedTogether
from perdure_eventstore.errors import LogUnavailable


async def test_who_asks_within_a_moment_is_asked_for_together_and_who_comes_meanwhile_next() -> None:
    asked: list[set[UUID]] = []
    answered = asyncio.Event()

    async def ask(runs: Sequence[UUID]) -> set[UUID]:
        asked.append(set(runs))
        await answered.wait()
        return set(runs)

    together = AskedTogether(ask)
    first = [asyncio.create_task(together(uuid4())) for _ in range(3)]
    while not asked:
        await asyncio.sleep(0.001)
    later = [asyncio.create_task(together(uuid4())) for _ in range(2)]
    await asyncio.sleep(0.02)
    assert [len(each) for each in asked] == [3]
    answered.set()
    assert await asyncio.gather(*first, *later) == [asked[0]] * 3 + [asked[1]] * 2
    assert [len(each) for each in asked] == [3, 2]


async def test_one_who_waits_no_more_takes_nobody_else_along_and_an_error_reaches_all() -> None:
    async def ask(runs: Sequence[UUID]) -> set[UUID]:
        await asyncio.sleep(0.02)
        raise OSError("no log")

    together = AskedTogether(ask)
    asking = [asyncio.create_task(together(uuid4())) for _ in range(3)]
    await asyncio.sleep(0.005)
    asking[0].cancel()
    for each in asking[1:]:
        with pytest.raises(OSError, match="no log"):
            await each
    assert asking[0].cancelled()
    with pytest.raises(OSError, match="no log"):
        await together(uuid4())


async def test_so_many_are_asked_for_at_once_and_the_others_next_and_none_once_it_is_closed() -> None:
    asked: list[int] = []

    async def ask(runs: Sequence[UUID]) -> int:
        asked.append(len(runs))
        return len(asked)

    together = AskedTogether(ask)
    answers = await asyncio.gather(*(together(uuid4()) for _ in range(250)))
    assert asked == [100, 100, 50]
    assert answers == [1] * 100 + [2] * 100 + [3] * 50
    waiting = asyncio.create_task(together(uuid4()))
    await asyncio.sleep(0)
    await together.close()
    with pytest.raises(LogUnavailable, match="was closed before"):
        await waiting
    assert asked == [100, 100, 50]

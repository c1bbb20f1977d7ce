"""Trying again: what is tried again, how often, and who is told."""

import asyncio
from unittest.mock import patch

import pytest

from perdure_eventstore.errors import AppendRefused, LogError, LogUnavailable
from perdure_eventstore.patience import patiently


class Work:
    """Raises these errors one after the other, and answers then."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was slept, without sleeping."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return slept


async def test_what_cannot_be_reached_is_tried_until_it_can(pauses: list[float]) -> None:
    assert await patiently(Work(*[LogUnavailable("gone")] * 12)) == "done"
    assert len(pauses) == 12
    for pause, least in zip(pauses, [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, *[2.0] * 6], strict=True):
        assert least <= pause <= least + 0.1


async def test_a_lambda_is_awaited_too() -> None:
    work = Work(LogUnavailable("gone"))
    assert await patiently(lambda: work()) == "done"


async def test_who_has_only_so_much_patience_gets_the_last_error() -> None:
    errors = [LogUnavailable(str(n)) for n in range(9)]
    with pytest.raises(LogUnavailable, match="0"):
        await patiently(Work(*errors), within=0.0)


async def test_any_other_error_is_raised_at_once(pauses: list[float]) -> None:
    with pytest.raises(AppendRefused, match="no"):
        await patiently(Work(AppendRefused("no")))
    assert pauses == []


async def test_more_errors_and_other_pauses_can_be_named_and_each_is_told(pauses: list[float]) -> None:
    told: list[tuple[str, float]] = []
    work = Work(AppendRefused("a"), LogUnavailable("b"), AppendRefused("c"))
    with patch("perdure_eventstore.patience._JITTER", 0):
        await patiently(work, LogError, first=1, most=3, told=lambda error, pause: told.append((str(error), pause)))
    assert [error for error, _ in told] == ["a", "b", "c"]
    assert [pause for _, pause in told] == pauses == [1, 2, 3]


async def test_being_cancelled_ends_it() -> None:
    class Cancelled:
        async def __call__(self) -> None:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await patiently(Cancelled(), Exception)

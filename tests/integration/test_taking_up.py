"""Runs that nobody works on: found by the repeated scan, and taken up a batch at a time."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from acceptance.checker import assert_kept
from applications import new_app, recorder, story, task, tenure_of, until, workflow
from logs import execute, rows

from perdure_engine import reaching
from perdure_engine.holder import Holder
from perdure_engine.inbox import Inbox

pytestmark = pytest.mark.every_postgres


async def test_a_run_whose_wake_up_was_lost_is_found_by_the_repeated_scan(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    working, asking = new_app(database_url), new_app(database_url)
    calls, settings = recorder(working), working._node_settings()
    monkeypatch.setattr(working, "_node_settings", lambda: settings._replace(scan=0.5))
    read, deaf = Inbox.read, True

    async def read_late(inbox: Inbox, shards: Sequence[int]) -> Any:
        if deaf:
            execute(database_url, "delete from perdure.inbox")
        return await read(inbox, shards)

    monkeypatch.setattr(Inbox, "read", read_late)
    async with working.node(views=False), asking:
        await asking.register(workflow("w", task("a")))
        runs = [await asking.start("w", {"n": n}) for n in range(5)]
        await asyncio.gather(*(run.result(timeout=10) for run in runs))
    assert len(calls) == 5
    assert_kept(database_url)


async def test_a_take_over_reads_a_batch_while_the_one_before_is_recorded(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(Exception): ...

    dying, heir = new_app(database_url, concurrency=200), new_app(database_url, concurrency=200)
    started = recorder(dying, seconds=60.0)
    with pytest.raises(Died):
        async with dying.node(views=False):
            await dying.register(workflow("w", task("a")))
            runs = [await dying.start("w") for _ in range(100)]
            await until(lambda: len(started) == 100)
            raise Died
    again = recorder(heir)
    monkeypatch.setattr(reaching, "_BATCH", 10)
    loads, load = list[tuple[int, int]](), Holder.load

    async def noted(holder: Holder, wanted: Sequence[UUID]) -> None:
        if wanted:
            appender = tenure_of(heir).appender
            loads.append((len(wanted), appender._submitted - appender._answered))
        await load(holder, wanted)

    monkeypatch.setattr(Holder, "load", noted)
    async with heir.node(views=False):
        await asyncio.gather(*(run.result(timeout=20) for run in map(heir.run, [run.run_id for run in runs])))
    assert len(again) == 100
    assert max(size for size, _ in loads) == 10 and len(loads) >= 10
    # What a run makes next may be on its way too, beside the batch whose interruptions are being recorded.
    assert max(under_way for _, under_way in loads) <= 3 * 10
    assert "TaskInterrupted a 1" in story(database_url, runs[0].run_id)
    assert rows(database_url, "select from perdure.open_runs") == []

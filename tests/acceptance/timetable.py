"""A process with a schedule that has an outage to make up for and a backfill, and that dies at a given place."""

import asyncio
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch
from uuid import UUID

import orjson
from acceptance.walk import Killer, Notes

import perdure
import perdure_eventstore.append as append
import perdure_eventstore.lane as lane
from perdure_engine.facts import BackfillRequested
from perdure_engine.identity import run_for_time, schedule_stream
from perdure_engine.schedules.book import UnknownSchedule
from perdure_engine.schedules.rows import ScheduleRows

NAME = "hourly"
SET_AT = datetime(2031, 5, 6, 12, 0, 30, tzinfo=UTC)
TIMES = [SET_AT.replace(second=0) + timedelta(hours=n) for n in (-1, 0, 1, 2, 3)]
"""Two of the backfill, three that passed while there was no node."""
RUNS = {run_for_time(schedule_stream(NAME), due): due for due in TIMES}
WORKFLOW = {"workflow_id": "report", "tasks": [{"task_id": "a", "type": "work", "triggers": []}]}


def _names(appends: Iterable[append.Append]) -> list[str]:
    """The events of a batch that concern the schedule, each by a name that is the same in every life."""
    found = []
    for each in appends:
        for event in each.events:
            data = orjson.loads(event.data)
            if each.stream in RUNS and event.type == "RunStarted":
                found.append(f"{event.type} {RUNS[each.stream]:%H}")
            elif each.stream == schedule_stream(NAME):
                found.append(" ".join([event.type, data.get("due", "")[11:13] if "turn" in data else ""]).strip())
    return found


def _instrument(killer: Killer) -> None:
    original = append.send

    async def send(connection: Any, statement: Any, batch: Any, clock: Any) -> Any:
        passed = _names(batch.appends)
        killer.pass_by("before", passed)
        answer = await original(connection, statement, batch, clock)
        killer.pass_by("after", passed)
        return answer

    patch.object(lane, "send", send).start()


async def live(url: str, notes: str, where: str = "", transition: str = "") -> None:
    """Set the schedule, let three hours pass, and work until every time has its run."""
    written, now = Notes(notes), SET_AT
    _instrument(Killer(written, where, transition))

    async def present(_rows: ScheduleRows) -> datetime:
        return now

    patch.object(ScheduleRows, "now", present).start()
    app = perdure.App(url, settings=perdure.Settings(lease=0.5, poll=0.1))

    @app.task()
    async def work() -> int:
        await asyncio.sleep(0.01)
        return os.getpid()

    async with app:
        await app.register(WORKFLOW)
        try:
            await app.client.schedules.get(NAME)
        except UnknownSchedule:
            await app.schedule(NAME, "report", cron="0 * * * *", overlap="queue", catch_up="all")
        events = await app.client.schedules.history(NAME, 1_000)
        if not any(isinstance(each.fact, BackfillRequested) for each in events):
            await app.backfill(NAME, TIMES[0], TIMES[1])
        now = TIMES[-1] + timedelta(minutes=5)
        async with app.node(views=False):
            for run in RUNS:
                await _result(app, run)
            while (await app.client.schedules.get(NAME)).has_more:
                await asyncio.sleep(0.01)
    written.write("finished")


async def _result(app: perdure.App, run: UUID) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await app.run(run).result()
                return
            except LookupError:
                await asyncio.sleep(0.01)

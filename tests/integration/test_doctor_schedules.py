"""The doctor beside schedules that fire: no false alarm, and they go on with what it rebuilds."""

import asyncio
import random
import time
from datetime import timedelta

import pytest
from applications import until
from doctoring import QUICK, SLOW, app_of
from logs import execute, rows
from scheduling import NOON, HandClock, at, fired

import perdure
from perdure_engine.identity import schedule_stream

pytestmark = pytest.mark.every_postgres


class FastClock(HandClock):
    """A minute of it is a tenth of a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._begun = time.monotonic()
        super().__init__(monkeypatch)

    @property
    def moment(self):  # type: ignore[no-untyped-def]
        return NOON + timedelta(seconds=600 * (time.monotonic() - self._begun))

    @moment.setter
    def moment(self, _moment: object) -> None:
        pass


async def test_schedules_at_work_are_never_found_at_fault(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice, looks = random.Random(seed), 0
    FastClock(monkeypatch)
    async with app_of(database_url).node(views=False) as app, app_of(database_url).node(views=False):
        for document in (QUICK, SLOW):
            await app.register(document)
        for number, overlap in enumerate(("skip", "queue", "allow", "cancel_other") * 2):
            await app.schedule(f"s{number}", dice.choice(["quick", "slow"]), cron="* * * * *", overlap=overlap)  # type: ignore[arg-type]
        fired = "select count(*) from perdure.events where type = 'ScheduleFired'"
        async with asyncio.timeout(60):
            while looks < 10 or rows(database_url, fired)[0][0] < 20:
                work = asyncio.create_task(change(app, dice, 60))
                while not work.done():
                    diagnosis = await app.doctor(repair=looks % 5 == 4)
                    assert diagnosis.faults == [], [*map(str, diagnosis.faults)]
                    looks += 1
                await work
    print(f"{looks} looks")


async def change(app: perdure.App, dice: random.Random, changes: int) -> None:
    for _ in range(changes):
        name = f"s{dice.randrange(8)}"
        match dice.choice(["pause", "resume", "resume", "backfill", "set"]):
            case "pause":
                await app.pause_schedule(name, "as it pleases")
            case "resume":
                await app.resume_schedule(name)
            case "backfill":
                await app.backfill(name, NOON - timedelta(minutes=dice.randrange(1, 20)), NOON)
            case "set":
                await app.schedule(name, "quick", cron=f"*/{dice.randrange(1, 4)} * * * *")
        await asyncio.sleep(dice.random() * 0.05)


async def test_schedules_that_were_lost_are_rebuilt_and_fire(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock(monkeypatch)
    async with app_of(database_url).node(views=False) as app:
        await app.register(QUICK)
        await app.schedule("hourly", "quick", cron="0 * * * *")
        await app.schedule("held", "quick", cron="0 * * * *")
        await app.backfill("held", at(9), at(10))
        await until(lambda: fired(database_url, "held") == [("started", at(9)), ("started", at(10))])
        await app.pause_schedule("held")
        await until(lambda: not rows(database_url, "select from perdure.inbox"))
        # What it had planned to look at is over.
        await asyncio.sleep(1.5)
        healthy = rows(database_url, "select s::text from perdure.schedules s order by name")
        execute(database_url, "truncate perdure.schedules")
        clock.pass_by(hours=1)
        found = (await app.doctor(repair=True)).faults
        assert {fault.where["schedule"] for fault in found} == {schedule_stream("hourly"), schedule_stream("held")}
        # Told of it, the node does not wait for its next look in a minute.
        await until(lambda: fired(database_url, "hourly") == [("started", at(13))])
        assert rows(database_url, "select s::text from perdure.schedules s order by name")[0] == healthy[0]
        assert (await app.doctor()).faults == []

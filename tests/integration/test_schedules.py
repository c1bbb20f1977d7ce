"""Schedules on a real node: what their policies make of each time, whatever the clock does."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from applications import Calls, new_app, recorder, task, until, workflow
from dumps import found_in
from freezegun import freeze_time
from logs import execute, opened, rows
from scheduling import NOON, HandClock, at, fired, happened, runs
from transfers import another_log, exported, import_lines, url_of

import perdure
from perdure.encryption import EncryptionSettings
from perdure_engine.erasure import ErasureRefused
from perdure_engine.facts import ScheduleFired, ScheduleMissed, ScheduleSet
from perdure_engine.identity import run_for_time, schedule_stream
from perdure_engine.imported import ImportedWork
from perdure_engine.schedules.book import UnknownSchedule
from perdure_engine.schedules.firing import Firing
from perdure_engine.schedules.schedule import Schedule, evolve
from perdure_engine.schedules.wanted import ScheduleRefused
from perdure_eventstore.database import raw_connection
from perdure_eventstore.vault.master import new_master_key
from perdure_eventstore.verify import verify

pytestmark = pytest.mark.every_postgres

REPORT = workflow("report", task("a", inputs={"n": "{{default(n, 0)}}", "due": "{{schedule.due}}"}))
HELD = workflow("held", task("a"), task("b", {"all": ["a.completed", {"event": "go", "within": "1h"}]}))


class World:
    """An app with a node, and the clock of its schedules."""

    def __init__(self, url: str, clock: HandClock) -> None:
        self.url, self.clock = url, clock
        self.app = new_app(url)
        self.calls: Calls = recorder(self.app)

    async def pass_by(self, **length: float) -> None:
        """Let time pass, and have the node look."""
        self.clock.pass_by(**length)
        self.look()
        await asyncio.sleep(0)

    def look(self) -> None:
        node = self.app.client.node
        assert node is not None and node.tenure is not None
        node.tenure.schedules.wake.set()

    async def until_fired(self, name: str, *expected: tuple[str, datetime]) -> None:
        await until(lambda: fired(self.url, name) == list(expected))

    async def go(self, run: int) -> None:
        """Let the run of workflow ``held`` that started as number ``run`` end."""
        run_id = runs(self.url)[run]
        await self.app.publish("go", run=run_id)
        await self.app.run(run_id).result(timeout=10)

    async def check_row(self, name: str) -> None:
        """The row is what the events make of it: once nothing happens between reading the one and the other."""
        for _ in range(50):
            state: Schedule | None = None
            for version, fact in enumerate(happened(self.url, name), 1):
                state = evolve(state, fact, schedule_stream(name), version)
            row = next((each for each in await self.app.schedules() if each.name == name), None)
            if state == row:
                break
            await asyncio.sleep(0.05)
        assert state == row


@pytest.fixture
async def world(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    world = World(database_url, HandClock(monkeypatch))
    async with world.app.node(views=False):
        await world.app.register(REPORT)
        await world.app.register(HELD)
        yield world
        for name in [each.name for each in await world.app.schedules()]:
            await world.check_row(name)


async def test_a_run_starts_at_its_time_and_is_told_which(world: World) -> None:
    set_ = await world.app.schedule("daily", "report", cron="30 12 * * *", timezone="Europe/Berlin", input={"n": 1.0})
    assert set_.next_due == at(10, 30, day=7)
    await world.pass_by(hours=22, minutes=29)
    await asyncio.sleep(0.3)
    assert fired(world.url, "daily") == []
    await world.pass_by(minutes=1)
    await world.until_fired("daily", ("started", at(10, 30, day=7)))
    (run,) = runs(world.url)
    assert run == run_for_time(schedule_stream("daily"), at(10, 30, day=7))
    assert await world.app.run(run).result(timeout=10) == {"a": {"n": 1.0, "due": "2031-05-07T12:30:00+02:00"}}
    (schedule,) = await world.app.schedules()
    assert (schedule.next_due, schedule.last_due, schedule.last_run) == (at(10, 30, day=8), at(10, 30, day=7), run)


async def test_the_same_again_changes_nothing_and_another_changes_it(world: World) -> None:
    first = await world.app.schedule("s", "report", cron="0 * * * *", input={"n": 1}, key="k")
    assert await world.app.schedule("s", "report", cron="0 * * * *", input={"n": 1}, key="k") == first
    assert len(happened(world.url, "s")) == 1
    await world.pass_by(minutes=10)
    changes: list[dict[str, Any]] = [
        {"input": {"n": 2}, "key": "k"},
        {"input": {"n": 1}, "key": "l"},
        {"input": {"n": 1}, "key": "k", "overlap": "allow"},
    ]
    for changed in changes:
        now = await world.app.schedule("s", "report", cron="0 * * * *", **changed)
        assert now.next_due == first.next_due
    assert len(happened(world.url, "s")) == 4
    moved = await world.app.schedule("s", "report", cron="15 * * * *")
    assert moved.next_due == at(12, 15)


@pytest.mark.parametrize("hours", [0, -7, 7])
async def test_a_node_whose_own_clock_jumps_fires_by_that_of_the_database(database_url: str, hours: int) -> None:
    """Set by another process, it is due within the second. No clock is set by hand here but the node's own."""
    app, client = new_app(database_url), new_app(database_url)
    recorder(app)
    wrong = freeze_time(datetime.now(UTC) + timedelta(hours=hours), tick=True, real_asyncio=True)
    async with app.node(views=False), client:
        await app.register(REPORT)
        await client.schedule("s", "report", cron="* * * * *")
        await until(lambda: rows(database_url, "select count(*) from perdure.inbox") == [(0,)])
        execute(
            database_url,
            "update perdure.schedules set next_due = date_trunc('second', clock_timestamp()) + interval '2 s'",
        )
        with wrong:
            await client.schedule("s", "report", cron="* * * * *", overlap="allow")
            await asyncio.sleep(0.5)
            assert fired(database_url, "s") == []
            await until(lambda: len(fired(database_url, "s")) == 1, 5)
        ((late,),) = rows(
            database_url,
            """select extract(epoch from recorded_at - (data ->> 'due')::timestamptz)::float from perdure.events
               where type = 'ScheduleFired'""",
        )
        assert 0 <= late < 1.0


@pytest.mark.parametrize(
    ("evening", "half_past_two"),
    [(datetime(2031, 3, 29, 20, 15, tzinfo=UTC), 60), (datetime(2031, 10, 25, 20, 15, tzinfo=UTC), 30)],
    ids=["spring", "autumn"],
)
async def test_through_a_night_in_which_the_clocks_change_each_time_fires_once(
    world: World, evening: datetime, half_past_two: int
) -> None:
    """In spring 02:30 is passed over, and due as the gap ends; in autumn it comes twice, and is due the first time.

    The node's machine goes through the same night, and its clock jumps back by a day in the middle of it.
    """
    midnight, world.clock.moment = (evening + timedelta(days=1)).replace(hour=0, minute=0), evening
    with freeze_time(evening, tick=True, real_asyncio=True, ignore=["apscheduler.triggers"]) as machine:
        for name, cron in (("nightly", "30 2 * * *"), ("half-hourly", "*/30 * * * *")):
            await world.app.schedule(
                name, "report", cron=cron, timezone="Europe/Berlin", overlap="allow", catch_up="all"
            )
        for minutes in range(30, 12 * 60, 30):
            await world.pass_by(minutes=30)
            machine.move_to(world.clock.moment - timedelta(days=minutes > 300))
            await until(lambda count=minutes // 30: len(fired(world.url, "half-hourly")) == count)  # type: ignore[misc]
        first = evening.replace(minute=30)
        await world.until_fired(
            "half-hourly", *(("started", first + timedelta(minutes=30 * n)) for n in range(minutes // 30))
        )
        await world.until_fired("nightly", ("started", midnight + timedelta(minutes=half_past_two)))
        assert len(set(runs(world.url))) == minutes // 30 + 1


async def test_skip_leaves_out_what_comes_while_the_run_before_is_open(world: World) -> None:
    await world.app.schedule("s", "held", cron="0 * * * *", overlap="skip")
    await world.pass_by(hours=1)
    await world.until_fired("s", ("started", at(13)))
    await world.pass_by(hours=1)
    await world.until_fired("s", ("started", at(13)), ("skipped", at(14)))
    await world.go(0)
    await world.pass_by(hours=1)
    await world.until_fired("s", ("started", at(13)), ("skipped", at(14)), ("started", at(15)))
    reasons = [fact.reason for fact in happened(world.url, "s") if isinstance(fact, ScheduleFired)]
    assert reasons == ["", f"run {runs(world.url)[0]} is open", ""]


async def test_queue_starts_them_in_order_as_the_one_before_ends(world: World) -> None:
    await world.app.schedule("s", "held", cron="0 * * * *", overlap="queue")
    for hour in (13, 14, 15):
        await world.pass_by(hours=1)
        await until(lambda hour=hour: len(fired(world.url, "s")) == hour - 12)  # type: ignore[misc]
    assert fired(world.url, "s") == [("started", at(13)), ("queued", at(14)), ("queued", at(15))]
    for number, hour in enumerate((14, 15)):
        await world.go(number)
        await until(lambda hour=hour: fired(world.url, "s")[-1] == ("started", at(hour)))  # type: ignore[misc]
    await world.go(2)
    assert len(runs(world.url)) == 3


async def test_allow_starts_them_side_by_side(world: World) -> None:
    await world.app.schedule("s", "held", cron="0 * * * *", overlap="allow")
    for _ in range(3):
        await world.pass_by(hours=1)
        await asyncio.sleep(0.1)
    await world.until_fired("s", *(("started", at(hour)) for hour in (13, 14, 15)))
    assert rows(world.url, "select count(*) from perdure.open_runs") == [(3,)]


async def test_cancel_other_stops_the_one_before_and_starts_when_it_has_ended(world: World) -> None:
    calls = recorder(world.app, "slow", seconds=60)
    await world.app.register(workflow("slow", task("a", type="slow")))
    await world.app.schedule("s", "slow", cron="0 * * * *", overlap="cancel_other")
    await world.pass_by(hours=1)
    await until(lambda: len(calls) == 1)
    await world.pass_by(hours=1)
    await world.until_fired("s", ("started", at(13)), ("queued", at(14)), ("started", at(14)))
    with pytest.raises(perdure.RunCancelled, match="schedule s is due again"):
        await world.app.run(runs(world.url)[0]).result(timeout=10)
    assert len(runs(world.url)) == 2


@pytest.mark.parametrize(
    ("catch_up", "made_up_for"),
    [
        ("all", [at(13), at(14), at(15), at(16)]),
        ("last", [at(16)]),
        ("none", []),
    ],
)
async def test_after_an_outage_the_catch_up_policy_says_what_is_made_up_for(
    database_url: str, monkeypatch: pytest.MonkeyPatch, catch_up: Any, made_up_for: list[datetime]
) -> None:
    clock, app = HandClock(monkeypatch), new_app(database_url)
    recorder(app)
    async with app:
        await app.register(REPORT)
        await app.schedule("s", "report", cron="0 * * * *", overlap="allow", catch_up=catch_up)
        clock.pass_by(hours=4, minutes=5)
        async with app.node(views=False):
            await until(lambda: rows(database_url, "select next_due from perdure.schedules") == [(at(17),)])
        assert fired(database_url, "s") == [("started", due) for due in made_up_for]
        missed = [fact for fact in happened(database_url, "s") if isinstance(fact, ScheduleMissed)]
        first = [] if catch_up == "all" else [ScheduleMissed(first=at(13), next_due=(made_up_for or [at(17)])[0])]
        assert missed == first


async def test_none_starts_what_is_a_few_seconds_late(world: World) -> None:
    await world.app.schedule("s", "report", cron="0 * * * *", catch_up="none")
    await world.pass_by(minutes=59, seconds=45)
    await world.until_fired("s", ("started", at(13)))


async def test_paused_it_starts_nothing_and_what_passed_is_not_made_up_for(world: World) -> None:
    await world.app.schedule("s", "report", cron="0 * * * *", catch_up="all")
    assert (await world.app.pause_schedule("s", "an audit")).paused
    await world.app.pause_schedule("s")
    await world.pass_by(hours=3)
    await asyncio.sleep(0.3)
    resumed = await world.app.resume_schedule("s")
    await world.app.resume_schedule("s")
    assert (resumed.paused, resumed.next_due) == (False, at(16))
    await world.pass_by(hours=1)
    await world.until_fired("s", ("started", at(16)))
    assert [type(fact).__name__ for fact in happened(world.url, "s")] == [
        "ScheduleSet", "SchedulePaused", "ScheduleResumed", "ScheduleFired",
    ]  # fmt: skip


async def test_a_deleted_one_is_gone_and_set_again_it_never_repeats_a_time(world: World) -> None:
    await world.app.schedule("s", "report", cron="0 * * * *")
    await world.pass_by(hours=1)
    await world.until_fired("s", ("started", at(13)))
    await world.app.delete_schedule("s")
    assert await world.app.schedules() == []
    with pytest.raises(UnknownSchedule, match="there is no schedule 's'; none is set"):
        await world.app.delete_schedule("s")
    world.clock.pass_by(hours=-1)
    await world.app.schedule("s", "report", cron="0 * * * *")
    await world.pass_by(hours=1)
    await until(lambda: len(fired(world.url, "s")) == 2)
    assert len(runs(world.url)) == 1


async def test_a_backfill_starts_what_has_no_run_one_after_the_other(world: World) -> None:
    """13:00 was started, 14:00 skipped, and 11:00 was before the schedule."""
    await world.app.schedule("s", "held", cron="0 * * * *", overlap="skip")
    await world.pass_by(hours=1)
    await world.until_fired("s", ("started", at(13)))
    await world.pass_by(hours=1)
    await until(lambda: len(fired(world.url, "s")) == 2)
    asked = await world.app.backfill("s", at(11), at(14))
    assert len(asked.backfills) == 1
    await asyncio.sleep(0.3)
    assert len(runs(world.url)) == 1
    for number, hour in enumerate((11, 12, 14)):
        await world.go(number)
        await until(lambda hour=hour: fired(world.url, "s")[-1] == ("started", at(hour)))  # type: ignore[misc]
    await world.go(3)
    (schedule,) = await world.app.schedules()
    assert (schedule.backfills, schedule.backlog, schedule.next_due) == ((), (), at(15))


async def test_a_long_backfill_side_by_side_is_planned_in_parts(world: World) -> None:
    await world.app.schedule("s", "report", cron="0 * * * *", overlap="allow")
    await world.app.backfill("s", NOON - timedelta(days=10), NOON, overlap="allow")
    await until(lambda: len(runs(world.url)) == 240, 30)
    await until(lambda: rows(world.url, "select has_more from perdure.schedules") == [(False,)])
    await world.app.backfill("s", NOON - timedelta(days=11), NOON)
    await until(lambda: len(runs(world.url)) == 264, 30)
    assert len(set(runs(world.url))) == 264


async def test_a_pause_holds_a_backfill_until_it_is_resumed(world: World) -> None:
    await world.app.schedule("s", "held", cron="0 * * * *")
    await world.app.backfill("s", at(9), at(11))
    await world.until_fired("s", ("started", at(9)))
    await world.app.pause_schedule("s")
    await world.go(0)
    await world.app.backfill("s", at(7), at(7), overlap="allow")
    for _ in range(3):
        world.look()
        await asyncio.sleep(0.1)
    assert fired(world.url, "s") == [("started", at(9))]
    await world.app.resume_schedule("s")
    await world.until_fired("s", ("started", at(9)), ("started", at(10)))
    await world.go(1)
    await world.until_fired("s", *(("started", at(hour)) for hour in (9, 10, 11, 7)))
    assert len(runs(world.url)) == 4


async def test_a_pause_between_the_start_of_a_run_and_its_record_loses_neither(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Firing._begin

    async def pausing(firing: Firing, schedule: Schedule, run: UUID, due: datetime) -> None:
        await begin(firing, schedule, run, due)
        await world.app.pause_schedule("s")

    monkeypatch.setattr(Firing, "_begin", pausing)
    await world.app.schedule("s", "report", cron="0 * * * *")
    await world.pass_by(hours=1)
    await world.until_fired("s", ("started", at(13)))
    (schedule,) = await world.app.schedules()
    assert (schedule.paused, schedule.last_due, schedule.next_due) == (True, at(13), at(14))
    assert runs(world.url) == [schedule.last_run]


async def test_a_backfill_asks_for_no_more_than_10_000_times(world: World) -> None:
    await world.app.schedule("s", "report", cron="* * * * *")
    first = NOON.replace(second=0) - timedelta(days=365)
    with pytest.raises(ScheduleRefused, match=r"due more than 10,000 times .* in parts, the first until ") as refused:
        await world.app.backfill("s", first, NOON, overlap="allow")
    assert [type(fact).__name__ for fact in happened(world.url, "s")] == ["ScheduleSet"]
    await world.app.pause_schedule("s")
    until_ = datetime.fromisoformat(str(refused.value).rpartition(" ")[2])
    assert until_ == first + timedelta(minutes=9_999)
    assert len((await world.app.backfill("s", first, until_)).backfills) == 1


async def test_a_workflow_that_cannot_start_is_recorded_and_the_schedule_goes_on(world: World) -> None:
    await world.app.schedule("s", "report", cron="0 * * * *")
    await world.app.retire("report")
    await world.pass_by(hours=1)
    await world.until_fired("s", ("refused", at(13)))
    await world.app.register(REPORT)
    await world.pass_by(hours=1)
    await world.until_fired("s", ("refused", at(13)), ("started", at(14)))
    refused = next(fact for fact in happened(world.url, "s") if isinstance(fact, ScheduleFired))
    assert "there is no active workflow 'report'" in refused.reason


async def test_one_open_run_a_key_is_a_reason_not_to_start(world: World) -> None:
    await world.app.register({**HELD, "workflow_id": "keyed", "key": "{{event.payload.id}}"})
    await world.app.start("keyed", key="k")
    await world.app.schedule("s", "keyed", cron="0 * * * *", key="k")
    await world.pass_by(hours=1)
    await world.until_fired("s", ("refused", at(13)))
    (reason,) = [fact.reason for fact in happened(world.url, "s") if isinstance(fact, ScheduleFired)]
    assert reason == "a run of keyed with its key is open"


async def test_whatever_the_clock_does_a_time_is_neither_repeated_nor_left_out(world: World) -> None:
    await world.app.schedule("s", "report", cron="0 * * * *", overlap="allow", catch_up="all")
    for hours in (1, -1, 1, 3, -4, 2, 0.01, 3):
        await world.pass_by(hours=hours)
        await asyncio.sleep(0.15)
    await world.until_fired("s", *(("started", at(hour)) for hour in range(13, 18)))
    assert len(runs(world.url)) == 5


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"cron": "0 9 * *"}, "the cron expression '0 9 * *' has 4 fields and not five"),
    ({"cron": "0 24 * * *"}, "the cron expression '0 24 * * *': '24' is no hour: it is 0 to 23"),
    ({"cron": "0 0 31 2 *"}, "names a day that never comes"),
    ({"timezone": "Europe/Berln"}, "there is no time zone 'Europe/Berln'; did you mean Europe/Berlin"),
    ({"overlap": "replace"}, "overlap is one of skip, queue, allow, cancel_other, not 'replace'"),
    ({"catch_up": "some"}, "catch_up is one of all, last, none, not 'some'"),
    ({"name": ""}, "a schedule's name is 1 to 200 printable characters, not ''"),
    ({"event": "began"}, "'began' is no entry of report; it has none: leave event= out"),
    ({"cron": "٩ * * * *"}, "'٩' is no minute"),
]


@pytest.mark.parametrize(("given", "sentence"), WRONG)
async def test_what_is_wrong_is_said_in_a_sentence(world: World, given: dict[str, Any], sentence: str) -> None:
    asked = {"name": "s", "workflow_id": "report", "cron": "0 9 * * *", **given}
    with pytest.raises(ScheduleRefused) as refused:
        await world.app.schedule(**asked)
    assert sentence in str(refused.value)


async def test_wrong_use_of_what_is_there_is_said_in_a_sentence(world: World) -> None:
    await world.app.schedule("nightly", "report", cron="0 3 * * *")
    with pytest.raises(UnknownSchedule, match=r"there is no schedule 'nihgtly'; did you mean nightly\?"):
        await world.app.pause_schedule("nihgtly")
    for start, end, sentence in (
        (at(3), at(2), "before it starts"),
        (at(3), at(3, day=7), "what is to come is the schedule's own"),
        (at(4), at(5), "nightly is never due from"),
        (datetime(2031, 1, 1), at(5), "a datetime with a time zone"),
    ):
        with pytest.raises(ScheduleRefused, match=sentence):
            await world.app.backfill("nightly", start, end)
    with pytest.raises(ScheduleRefused, match=r"'queue' .* or 'allow', not 'skip'"):
        await world.app.backfill("nightly", at(1), at(4), overlap="skip")
    for start in (datetime.min.replace(tzinfo=UTC), datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))):
        with pytest.raises(ScheduleRefused, match="a backfill's start is a time from 1970 to 9999 in UTC, not 0001"):
            await world.app.backfill("nightly", start, at(4))


@pytest.mark.parametrize("reason", [None, 5, "a\0b", "\ud800", "x" * 1_001])
async def test_a_reason_that_cannot_be_read_again_is_refused_before_it_is_recorded(world: World, reason: Any) -> None:
    await world.app.schedule("s", "report", cron="0 3 * * *")
    with pytest.raises(ScheduleRefused, match="a reason is text of at most 1,000 characters"):
        await world.app.pause_schedule("s", reason)
    assert [type(fact).__name__ for fact in happened(world.url, "s")] == ["ScheduleSet"]
    assert (await world.app.pause_schedule("s", 'it\'s \\u0000 "quoted"')).paused
    assert len(await world.app.client.schedules.history("s")) == 2


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "", "a" * 100_000, 5, None, ["s"]])
async def test_a_name_that_no_schedule_may_have_is_unknown(world: World, name: Any) -> None:
    book = world.app.client.schedules
    asks = (book.get, book.pause, book.resume, book.delete, lambda name: book.backfill(name, at(1), at(2)))
    for ask in asks:
        with pytest.raises(UnknownSchedule, match="there is no schedule") as unknown:
            await ask(name)
        assert len(str(unknown.value)) < 200
    assert await book.history(name) == []


async def test_two_who_change_it_at_once_both_get_their_change(world: World) -> None:
    await world.app.schedule("s", "report", cron="0 * * * *")
    await asyncio.gather(*(world.app.pause_schedule("s") for _ in range(3)), world.app.backfill("s", at(11), at(12)))
    (schedule,) = await world.app.schedules()
    assert schedule.paused
    await world.app.resume_schedule("s")
    await world.until_fired("s", ("started", at(11)), ("started", at(12)))


async def test_the_input_of_a_schedule_is_payload(world: World) -> None:
    await world.app.schedule("s", "report", cron="0 * * * *", input={"n": "a secret"}, key="another")
    (line,) = rows(world.url, "select s::text from perdure.schedules s")
    assert "secret" not in line[0] and "another" not in line[0]
    (set_,) = happened(world.url, "s")
    assert isinstance(set_, ScheduleSet) and set_.payload.value == {"n": "a secret"} and UTC is set_.next_due.tzinfo


async def test_where_payloads_are_encrypted_so_is_the_input(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    new_master_key(tmp_path / "master")
    clock = HandClock(monkeypatch)
    app = new_app(database_url, encryption=EncryptionSettings(master_key=tmp_path / "master"))
    recorder(app)
    async with app.node(views=False):
        await app.register(REPORT)
        await app.schedule("s", "report", cron="0 * * * *", input={"n": "very-private-marker"})
        clock.pass_by(hours=1)
        await app.schedule("s", "report", cron="0 * * * *", input={"n": "very-private-marker"}, overlap="queue")
        await until(lambda: len(runs(database_url)) == 1)
        result = await app.run(runs(database_url)[0]).result(timeout=10)
        assert result["a"]["n"] == "very-private-marker"
    assert found_in(database_url, "very-private-marker") == []


@pytest.mark.parametrize("encrypted", [False, True])
async def test_the_inputs_of_a_deleted_schedule_can_be_erased(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encrypted: bool
) -> None:
    HandClock(monkeypatch)
    new_master_key(tmp_path / "master")
    settings = {"encryption": EncryptionSettings(master_key=tmp_path / "master")} if encrypted else {}
    async with new_app(database_url, **settings) as app:
        await app.register(REPORT, allow_unknown_types=True)
        for n in (1, 2):
            made = await app.schedule(
                "s", "report", cron="0 * * * *", input={"n": f"private-marker-{n}"}, key="a-person"
            )
        with pytest.raises(ErasureRefused, match="schedule s needs its input: delete it first"):
            await app.erase(made.id)
        await app.delete_schedule("s")
        assert (await app.erase(made.id, reason="asked to be forgotten")).payloads == 2
        assert (await app.erase(made.id)).payloads == 0
        assert found_in(database_url, "private-marker") == [] == found_in(database_url, "a-person")
        assert len(await app.client.schedules.history("s")) == 3
        with pytest.raises(ScheduleRefused, match="schedule s was deleted and erased: take another name"):
            await app.schedule("s", "report", cron="0 * * * *")
        assert (await app.doctor()).faults == []
        async with raw_connection(app.database) as connection:
            assert [each.fault async for each in verify(connection)][-1] is None


def test_the_blocking_face_has_the_same(database_url: str) -> None:
    with new_app(database_url).blocking() as client:
        client.register(REPORT, allow_unknown_types=True)
        made = client.schedule("s", "report", cron="@daily", timezone="Europe/Berlin")
        assert client.schedules() == [made]
        assert client.pause_schedule("s", "why").paused and not client.resume_schedule("s").paused
        day = datetime(2026, 1, 2, tzinfo=UTC)
        assert len(client.backfill("s", day, day + timedelta(days=1), overlap="allow").backfills) == 1
        client.delete_schedule("s")
        assert client.schedules() == []


async def test_an_imported_log_brings_its_schedules_along(world: World) -> None:
    await world.app.schedule("s", "held", cron="0 * * * *", overlap="queue")
    await world.app.schedule("gone", "held", cron="0 * * * *")
    await world.app.delete_schedule("gone")
    for hour in (1, 2):
        await world.pass_by(hours=1)
        await until(lambda hour=hour: len(fired(world.url, "s")) == hour)  # type: ignore[misc]
    await world.app.pause_schedule("s")
    async with opened(world.url) as engine, another_log(world.url) as other:
        text, _ = await exported(engine)
        await import_lines(other, text, ImportedWork())
        there = rows(url_of(other), "select s::text from perdure.schedules s")
    assert there == rows(world.url, "select s::text from perdure.schedules s")
    assert len(there) == 1

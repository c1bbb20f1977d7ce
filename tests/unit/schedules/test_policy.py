"""What a schedule does next, given what it is and what there is: each rule of its policies."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure_engine.facts import (
    BackfillPlanned,
    BackfillRequested,
    ScheduleFact,
    ScheduleFired,
    ScheduleMissed,
    SchedulePaused,
    ScheduleResumed,
)
from perdure_engine.identity import run_for_time, schedule_stream
from perdure_engine.schedules.policy import MOST_QUEUED, Plan, Record, Seen, Start, asks, decide
from perdure_engine.schedules.schedule import Backfill, Schedule, Waiting, evolve

ID = schedule_stream("hourly")
RUN = UUID(int=1)


def at(hour: int, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2026, 5, 6, hour, minute, second, tzinfo=UTC)


def hourly(**more: Any) -> Schedule:
    """Due at 13:00, with a run of 12:00."""
    plain = Schedule(
        id=ID, name="hourly", workflow_id="w", cron="0 * * * *", timezone="UTC", overlap="skip", catch_up="all",
        set_by=1, next_due=at(13), last_due=at(12), last_run=RUN,
    )  # fmt: skip
    return replace(plain, **more)


def when(schedule: Schedule, now: datetime, *, is_open: bool = False, started: tuple[datetime, ...] = ()) -> Any:
    return decide(schedule, Seen(now, is_open, frozenset(started)))


def outcomes(record: Record) -> list[tuple[str, str, datetime]]:
    return [(fact.turn, fact.outcome, fact.due) for fact in record.facts if isinstance(fact, ScheduleFired)]


def test_before_its_time_nothing_happens() -> None:
    assert when(hourly(), at(12, 59, 59)) is None


def test_at_its_time_its_run_starts() -> None:
    assert when(hourly(), at(13)) == Start(at(13), "clock")


def test_paused_nothing_happens() -> None:
    assert when(hourly(paused=True, queue=(at(12),)), at(15)) is None


def test_skip() -> None:
    step = when(hourly(), at(13), is_open=True)
    assert outcomes(step) == [("clock", "skipped", at(13))]
    assert (step.facts[0].reason, step.facts[0].next_due, step.cancel) == (f"run {RUN} is open", at(14), False)


def test_queue() -> None:
    queueing = hourly(overlap="queue")
    assert outcomes(when(queueing, at(13), is_open=True)) == [("clock", "queued", at(13))]
    assert when(replace(queueing, queue=(at(12),)), at(13)) == Start(at(12), "queue")
    assert when(replace(queueing, queue=(at(12),), next_due=at(14)), at(13), is_open=True) is None


def test_a_full_queue_takes_no_more() -> None:
    queue = tuple(at(0) - timedelta(hours=n) for n in range(MOST_QUEUED))
    step = when(hourly(overlap="queue", queue=queue), at(13), is_open=True)
    assert outcomes(step) == [("clock", "skipped", at(13))]
    assert "1000 times wait for it already" in step.facts[0].reason


def test_allow() -> None:
    assert when(hourly(overlap="allow"), at(13), is_open=True) == Start(at(13), "clock")
    assert when(hourly(overlap="allow", queue=(at(12),)), at(12), is_open=True) == Start(at(12), "queue")


def test_cancel_other() -> None:
    step = when(hourly(overlap="cancel_other"), at(13), is_open=True)
    assert (outcomes(step), step.cancel) == ([("clock", "queued", at(13))], True)
    step = when(hourly(overlap="cancel_other", queue=(at(12),)), at(13), is_open=True)
    assert (outcomes(step), step.cancel) == ([("queue", "skipped", at(12)), ("clock", "queued", at(13))], True)


def test_all_is_made_up_for_in_order() -> None:
    assert when(hourly(catch_up="all"), at(16, 5)) == Start(at(13), "clock")


def test_the_last_alone_is_made_up_for() -> None:
    step = when(hourly(catch_up="last"), at(16, 5))
    assert step == Record((ScheduleMissed(first=at(13), next_due=at(16)),))
    assert when(hourly(catch_up="last", next_due=at(16)), at(16, 5)) == Start(at(16), "clock")


def test_none_is_made_up_for_but_what_is_less_than_a_minute_late() -> None:
    assert when(hourly(catch_up="none"), at(13, 1)) == Start(at(13), "clock")
    assert when(hourly(catch_up="none"), at(13, 1, 1)) == Record((ScheduleMissed(first=at(13), next_due=at(14)),))
    assert when(hourly(catch_up="none"), at(16, 0, 30)) == Record((ScheduleMissed(first=at(13), next_due=at(16)),))


@pytest.mark.parametrize("changed", [{"overlap": "skip"}, {"catch_up": "none"}, {"catch_up": "last"}])
def test_what_was_started_is_recorded_as_started_whatever_the_policies_say_by_then(changed: dict[str, Any]) -> None:
    """Its node died before it could record that."""
    late = hourly(**changed)
    assert when(late, at(18), is_open=True, started=(at(13),)) == Start(at(13), "clock")
    assert when(replace(late, queue=(at(12),)), at(18), is_open=True, started=(at(12),)) == Start(at(12), "queue")


def test_a_backfill_is_planned_a_part_at_a_time() -> None:
    schedule = hourly(backfills=(Backfill(at(0) - timedelta(days=9), at(2), "queue"),))
    plan = when(schedule, at(12, 30))
    assert isinstance(plan, Plan)
    assert (len(plan.due), plan.due[0], plan.ended) == (100, at(0) - timedelta(days=9), False)
    record = plan.without(frozenset({plan.due[0]}))
    (fact,) = record.facts
    assert isinstance(fact, BackfillPlanned) and fact.due == plan.due[1:]
    planned = evolve(schedule, fact, ID, 2)
    assert planned is not None and len(planned.backlog) == 99
    rest = when(replace(planned, backlog=()), at(12, 30))
    assert isinstance(rest, Plan) and rest.due[0] == plan.due[-1] + timedelta(hours=1)


def test_a_backfill_waits_for_the_run_before_and_for_what_is_due() -> None:
    one_by_one = hourly(backlog=(Waiting(at(2), "queue"), Waiting(at(3), "queue")))
    assert when(one_by_one, at(12, 30)) == Start(at(2), "backfill")
    assert when(one_by_one, at(12, 30), is_open=True) is None
    assert when(one_by_one, at(13)) == Start(at(13), "clock")
    assert when(replace(one_by_one, queue=(at(12),)), at(12, 30)) == Start(at(12), "queue")


def test_a_backfill_side_by_side_waits_for_nobody() -> None:
    side_by_side = hourly(backlog=(Waiting(at(2), "allow"),))
    assert when(side_by_side, at(12, 30), is_open=True) == Start(at(2), "backfill")


@pytest.mark.parametrize("overlap", ["queue", "allow"])
def test_a_pause_holds_a_backfill_too(overlap: Any) -> None:
    for left in ({"backlog": (Waiting(at(2), overlap),)}, {"backfills": (Backfill(at(0), at(2), overlap),)}):
        paused = hourly(paused=True, queue=(at(1),), **left)
        assert when(paused, at(15)) is None and not paused.has_more
        resumed = evolve(paused, ScheduleResumed(next_due=at(16)), ID, 2)
        assert resumed is not None and resumed.has_more and when(resumed, at(15)) is not None


def test_what_was_started_as_it_was_paused_is_recorded() -> None:
    """The pause came between the start and the record."""
    paused = hourly(paused=True, backlog=(Waiting(at(2), "queue"),))
    assert when(paused, at(13), started=(at(13),)) == Start(at(13), "clock")
    assert when(paused, at(13), started=(at(2),)) == Start(at(2), "backfill")
    assert when(paused, at(12), started=(at(13),)) is None


# Any life of a schedule: clocks that jump, runs that end or not, deaths between a start and its record, changes of
# policy. Every time from the first to the last that was looked at has an end, and no time has two runs.

EVENT = st.one_of(
    st.tuples(st.just("clock"), st.integers(-300, 600)),
    st.tuples(st.just("end"), st.just(0)),
    st.tuples(st.just("die"), st.just(0)),
    st.tuples(st.just("overlap"), st.sampled_from(["skip", "queue", "allow", "cancel_other"])),
    st.tuples(st.just("catch_up"), st.sampled_from(["all", "last", "none"])),
    st.tuples(st.sampled_from(["pause", "resume"]), st.just(0)),
    st.tuples(st.just("backfill"), st.tuples(st.integers(-300, 0), st.integers(0, 300))),
)


class Life:
    """A node, the log and the runs, in a few lines."""

    def __init__(self) -> None:
        self.schedule = hourly(last_run=None, last_due=None)
        self.now = self.latest = at(12, 30)
        self.runs: set[UUID] = set()
        self.open: set[UUID] = set()
        self.ended = dict[datetime, list[str]]()
        self.passed_over = list[tuple[datetime, datetime]]()
        self.backfilled = list[tuple[datetime, datetime]]()
        self.dying = False

    def record(self, *facts: ScheduleFact) -> None:
        for fact in facts:
            changed = evolve(self.schedule, fact, ID, 2)
            assert changed is not None
            self.schedule = changed
            if isinstance(fact, ScheduleFired):
                self.ended.setdefault(fact.due, []).append(fact.outcome)
            elif isinstance(fact, ScheduleMissed):
                self.passed_over.append((fact.first, fact.next_due))

    def started(self, *times: datetime) -> frozenset[datetime]:
        return frozenset(time for time in times if run_for_time(ID, time) in self.runs)

    def work(self) -> None:
        for _ in range(2_000):
            started = self.started(*(time for time, _ in asks(self.schedule, self.now)))
            step = decide(self.schedule, Seen(self.now, self.schedule.last_run in self.open, started))
            match step:
                case None:
                    return
                case Start(due, turn):
                    run = run_for_time(ID, due)
                    if run not in self.runs:
                        self.runs.add(run)
                        self.open.add(run)
                    if self.dying:
                        self.dying = False
                        return
                    next_due = self.schedule.times.after(due) if turn == "clock" else None
                    self.record(ScheduleFired(due=due, turn=turn, outcome="started", run=run, next_due=next_due))
                case Plan():
                    self.record(*step.without(self.started(*step.due)).facts)
                case Record(facts, cancel):
                    if cancel:
                        self.open.discard(self.schedule.last_run or RUN)
                    self.record(*facts)
        raise AssertionError(f"it never comes to an end: {self.schedule}")

    def live(self, what: str, how: Any) -> None:
        match what:
            case "clock":
                self.now += timedelta(minutes=how)
                self.latest = max(self.latest, self.now)
            case "end":
                self.open.discard(self.schedule.last_run or RUN)
            case "die":
                self.dying = True
            case "backfill":
                start, end = (self.now + timedelta(minutes=how[0]), self.now)
                self.backfilled.append((start, end))
                self.record(BackfillRequested(start=start, end=end, overlap="queue"))
            case "pause":
                self.record(SchedulePaused())
            case "resume" if self.schedule.paused:
                next_due = self.schedule.times.after(self.now)
                self.passed_over.append((self.schedule.next_due, next_due))
                self.record(ScheduleResumed(next_due=next_due))
            case "overlap" | "catch_up":
                self.schedule = replace(self.schedule, **{what: how})
        before = set(self.runs)
        self.work()
        assert not self.schedule.paused or self.runs == before


@given(st.lists(EVENT, max_size=40))
def test_in_any_life_no_time_has_two_runs_and_none_is_left_out(events: list[tuple[str, Any]]) -> None:
    life = Life()
    for what, how in events:
        life.live(what, how)
    life.dying = False
    # Who started a run, died, and whose clock was set back, records it when that time comes again.
    life.now = life.latest
    life.live("resume", 0)
    while life.schedule.has_more:
        life.live("end", 0)
    for time in life.schedule.times.between(at(13), life.schedule.next_due - timedelta(seconds=1)):
        missed = any(first <= time < end for first, end in life.passed_over)
        assert life.ended.get(time, ["missed"] if missed else [])[-1:] in (["started"], ["skipped"], ["missed"])
    for start, end in life.backfilled:
        assert all(life.started(time) for time in life.schedule.times.between(start, end))
    assert life.runs == {run_for_time(ID, time) for time, ends in life.ended.items() if "started" in ends}

"""The checker of histories finds every kind of wrong: it is shown one for each promise, and a right one."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from acceptance.checker import History, Told, check

from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.hashing import event_hash, payload_digest

RUN, EVENT, NODE = (UUID(int=number) for number in (0xA, 0xE, 0x0D))
AT = datetime(2026, 1, 1, tzinfo=UTC)
SALT = b"s" * 16

Line = tuple[UUID, str, dict[str, Any], Any]
Edit = Callable[[list[Line]], list[Line]]


def line(type_: str, stream: UUID = RUN, payload: Any = None, **data: Any) -> Line:
    return stream, type_, data, payload


def task(type_: str, attempt: int = 1, task_id: str = "a", payload: Any = None, **data: Any) -> Line:
    return line(type_, payload=payload, task_id=task_id, attempt=attempt, **data)


RIGHT: list[Line] = [
    line("EventPublished", EVENT, {"payload": 7}, name="began"),
    line("RunStarted", workflow_id="w", digest="d", event_id=str(EVENT), waits=[{"trigger": 1, "event": "came"}]),
    task("TaskScheduled"),
    task("TaskStarted", node=str(NODE)),
    line("EventRouted", EVENT, matches=[{"workflow_id": "w", "outcome": "started", "run": str(RUN)}]),
    task("TaskInterrupted", node=str(NODE)),
    task("TaskScheduled", 2),
    task("TaskStarted", 2, node=str(NODE)),
    task("TaskFailed", 2, retry_at="2026-01-01T00:00:01Z", payload={"error": {}}),
    task("TaskScheduled", 3),
    task("TaskStarted", 3, node=str(NODE)),
    line("EventLatched", event="came", event_id=str(uuid4()), triggers=[1]),
    task("TaskCompleted", 3, payload={"output": "done"}),
    line("RunCompleted"),
]
TOLD = Told({EVENT: 7}, [RUN], [(RUN, "a", "done")])


def recorded(lines: Sequence[Line]) -> list[RecordedEvent]:
    """The log that holds these events, its chains whole."""
    heads: dict[UUID, tuple[int, bytes | None]] = {}
    events = []
    for position, (stream, type_, data, payload) in enumerate(lines, 1):
        version, previous = heads.get(stream, (0, None))
        text, id_ = orjson.dumps(data), uuid4()
        kept = None if payload is None else orjson.dumps(payload)
        digest = None if kept is None else payload_digest(SALT, kept)
        moment = int(AT.timestamp()) * 1_000_000
        hash_ = event_hash(
            previous, stream.bytes, version + 1, id_.bytes, type_.encode(), 1, moment, text, b"{}", digest
        )  # fmt: skip
        heads[stream] = version + 1, hash_
        salt = None if kept is None else SALT
        events.append(
            RecordedEvent(position, AT, stream, version + 1, 1, id_, type_, text, b"{}", kept, salt, digest, hash_)
        )
    return events


def without(type_: str) -> Edit:
    return lambda lines: [each for each in lines if each[1] != type_]


def after(type_: str, *more: Line) -> Edit:
    def edit(lines: list[Line]) -> list[Line]:
        place = [each[1] for each in lines].index(type_) + 1
        return [*lines[:place], *more, *lines[place:]]

    return edit


def only(count: int, *more: Line) -> Edit:
    return lambda lines: [*lines[:count], *more]


def test_a_right_history_has_no_findings() -> None:
    assert check(History(recorded(RIGHT)), TOLD) == []


def test_a_run_under_way_has_its_rows() -> None:
    waiting = recorded(RIGHT[:9])
    assert check(History(waiting, [RUN], [(RUN, "retry:a")], [(RUN, 1)])) == []


@pytest.mark.parametrize(
    ("edit", "finding"),
    [
        (without("EventPublished"), "was acknowledged and is not in the log"),
        (after("EventPublished", RIGHT[0]), "has 2 EventPublished"),
        (after("EventRouted", RIGHT[4]), "has 2 EventRouted"),
        (without("EventRouted"), "was published and never routed"),
        (after("TaskInterrupted", RIGHT[1]), "it started twice"),
        (without("RunStarted"), "comes before RunStarted"),
        (only(2, RIGHT[3]), "attempt 1 of a starts before it is scheduled"),
        (only(3, task("TaskStarted", 2)), "attempt 2 of a starts before it is scheduled"),
        (only(4, RIGHT[3]), "attempt 1 of a starts while attempt 1 is under way"),
        (only(4, task("TaskScheduled", 2)), "attempt 2 of a is scheduled while attempt 1 is started"),
        (only(6, task("TaskScheduled", 3)), "attempt 3 of a follows attempt 1"),
        (only(3, task("TaskCompleted")), "TaskCompleted of attempt 1 of a, which is not under way"),
        (after("TaskCompleted", RIGHT[12]), "TaskCompleted of a, which had ended"),
        (without("TaskCompleted"), "the output of a was acknowledged and is not in the log"),
        (after("RunCompleted", line("RunFailed")), "RunFailed ends a run that has ended"),
        (after("RunCompleted", task("TaskScheduled", task_id="b")), "TaskScheduled b comes after the end"),
        (after("RunCompleted", task("TaskCompleted", task_id="b")), "TaskCompleted b comes after the end"),
        (only(3, line("RunCompleted")), "it ended while attempt 1 of a was scheduled"),
        (after("EventLatched", RIGHT[11]), "reached it twice"),
    ],
)
def test_a_wrong_order_of_events_is_found(edit: Edit, finding: str) -> None:
    findings = check(History(recorded(edit(RIGHT))), TOLD)
    assert any(finding in each for each in findings), findings


PAUSED: list[Line] = [
    line("RunStarted", workflow_id="w", digest="d", waits=[{"trigger": 1, "event": "came", "until": "2026-01-02"}]),
    line("TaskDelayed", task_id="nap", until="2026-01-01T00:00:01Z"),
    task("TaskScheduled", start_by="2026-01-01T00:00:01Z", payload={"concurrency_key": "k"}),
    line("RunPaused"),
]
ONCE: list[Line] = [
    line("RunStarted", workflow_id="w", digest="d"),
    task("TaskScheduled"),
    task("TaskStarted", node=str(NODE), at_most_once=True),
]


def deaths(count: int) -> list[Line]:
    """An attempt whose node died, again and again, and the next is scheduled."""
    found = [line("RunStarted", workflow_id="w", digest="d")]
    for n in range(1, count + 1):
        found += [task("TaskScheduled", n), task("TaskStarted", n, node=str(NODE))]
        found += [task("TaskInterrupted", n, node=str(NODE))]
    return [*found, task("TaskScheduled", count + 1)]


@pytest.mark.parametrize(
    ("lines", "finding"),
    [
        ([*PAUSED, task("TaskStarted", node=str(NODE))], "attempt 1 of a starts while the run is paused"),
        ([*PAUSED, line("RunPaused")], "RunPaused of a run that is paused"),
        ([*PAUSED, line("RunResumed"), line("RunResumed")], "RunResumed of a run that is not paused"),
        ([*PAUSED, line("WaitExpired", trigger=1)], "a wait ended while it was paused"),
        ([*PAUSED, task("TaskScheduled", task_id="nap")], "the time of nap was over while the run was paused"),
        ([*PAUSED, task("TaskCompleted", 0, "nap")], "the time of nap was over while the run was paused"),
        ([*PAUSED, task("TaskTimedOut", limit="schedule_to_start")], "the time of a was over while the run was paused"),
        ([*PAUSED[:3], line("TaskDelayed", task_id="a")], "a is delayed though it is scheduled"),
        ([*PAUSED[:2], line("RunCompleted")], "it ended while attempt 0 of nap was delayed"),
        ([*PAUSED[:3], task("TaskTimedOut")], "TaskTimedOut of attempt 1 of a, which is not under way"),
        ([*ONCE, task("TaskTimedOut", limit="schedule_to_start")], "attempt 1 of a, which is not under way"),
        ([*ONCE, task("TaskFailed", retry_at="2026-01-01")], "a is to be tried again, which is attempted at most once"),
        ([*ONCE, task("TaskInterrupted"), task("TaskScheduled", 2)], "scheduled, which is attempted at most once"),
        (
            [*ONCE, task("TaskInterrupted"), task("TaskScheduled", 2), task("TaskStarted", 2)],
            "attempt 2 of a starts, which is attempted at most once",
        ),
        (deaths(5), "attempt 6 of a is scheduled after 5 deaths of its nodes"),
        ([*ONCE[:2], line("RunStopping"), task("TaskStarted")], "attempt 1 of a starts though the run is stopping"),
        ([*ONCE[:1], line("RunStopping"), task("TaskScheduled")], "scheduled though the run is stopping"),
    ],
)
def test_what_pauses_stops_deaths_and_deliveries_forbid_is_found(lines: list[Line], finding: str) -> None:
    before = check(History(recorded(lines[:-1]), [RUN]), at_rest=False)
    findings = check(History(recorded(lines), [RUN]), at_rest=False)
    assert any(finding in each for each in findings), findings
    assert not any(finding in each for each in before), before


def test_pauses_deaths_and_delays_that_are_right_have_no_findings() -> None:
    open_, timers = [RUN], [(RUN, "wait:1"), (RUN, "delay:nap"), (RUN, "start:a")]
    right = History(recorded(PAUSED), open_, timers, [(RUN, 1)], paused=open_, parked=open_, held=timers)
    assert check(right, at_rest=False) == []
    assert check(History(recorded(deaths(4)), open_), at_rest=False) == []
    resumed = [*PAUSED, line("RunResumed"), task("TaskStarted", node=str(NODE)), task("TaskCompleted", 0, "nap")]
    under_way = History(
        recorded(resumed), open_, timers[:1], [(RUN, 1)],
        assignments=[(RUN, "a", 1, NODE)], permits=[("k", RUN, "a")],
    )  # fmt: skip
    assert check(under_way) == []


@pytest.mark.parametrize(
    ("rows", "finding"),
    [
        ({"paused": []}, "is paused, and the working set does not say so"),
        ({"held": [(RUN, "wait:1")]}, "timer delay:nap of run"),
        ({"timers": [(RUN, "wait:1"), (RUN, "start:a")]}, "has no timer delay:nap"),
        ({"timers": [(RUN, "wait:1"), (RUN, "delay:nap")]}, "has no timer start:a"),
        ({"timers": [(RUN, "delay:nap"), (RUN, "start:a")]}, "has no timer wait:1"),
        ({"assignments": [(RUN, "a", 1, NODE)]}, "attempt 1 of a is assigned, and is not under way"),
        ({"permits": [("k", RUN, "a")]}, "a has a permit, and is not under way"),
        ({"inbox": [(RUN, "event")]}, "event waits in the inbox"),
    ],
)
def test_a_working_set_of_a_paused_run_that_is_not_the_logs_is_found(rows: dict[str, Any], finding: str) -> None:
    timers = [(RUN, "wait:1"), (RUN, "delay:nap"), (RUN, "start:a")]
    right = History(recorded(PAUSED), [RUN], timers, [(RUN, 1)], paused=[RUN], parked=[RUN], held=timers)
    findings = check(right._replace(**rows))
    assert any(finding in each for each in findings), findings


@pytest.mark.parametrize(
    ("rows", "finding"),
    [
        ({"parked": [RUN]}, "is parked, and there is something to do for it"),
        ({"paused": [RUN]}, "is not paused, and the working set does not say so"),
        ({"assignments": [(RUN, "a", 2, NODE)]}, "attempt 2 of a is assigned, and is not under way"),
        ({"assignments": [(RUN, "a", 1, uuid4())]}, f"and started on {NODE}"),
        ({"permits": []}, "a is under way without a permit of its key"),
    ],
)
def test_a_working_set_of_a_run_under_way_that_is_not_the_logs_is_found(rows: dict[str, Any], finding: str) -> None:
    lines = [*PAUSED[:1], PAUSED[2], task("TaskStarted", node=str(NODE))]
    timers = [(RUN, "wait:1")]
    right = History(recorded(lines), [RUN], timers, [(RUN, 1)], permits=[("k", RUN, "a")])
    assert check(right) == []
    assert any(finding in each for each in check(right._replace(**rows)))


def test_a_run_that_one_event_started_twice_is_found() -> None:
    other = [(uuid4(), *RIGHT[1][1:]), (RUN, "RunCompleted", {}, None)]
    twice = [*RIGHT, other[0], (other[0][0], "RunCompleted", {}, None)]
    assert any("started 2 runs of w" in each for each in check(History(recorded(twice)), TOLD))


def test_an_event_that_never_reached_its_run_is_found() -> None:
    late = uuid4()
    lines = [
        *RIGHT,
        line("EventPublished", late, {"payload": None}, name="came"),
        line("EventRouted", late, matches=[{"workflow_id": "w", "outcome": "delivered", "run": str(RUN)}]),
    ]
    assert any("never reached it" in each for each in check(History(recorded(lines)), TOLD))
    ignored = line("EventIgnored", event="came", event_id=str(late), reason="the run is completed")
    assert check(History(recorded([*lines, ignored])), TOLD) == []


def test_a_changed_output_is_found() -> None:
    changed = check(History(recorded(RIGHT)), TOLD._replace(outputs=[(RUN, "a", "other")]))
    assert changed == [f'run {RUN}: the output of a was acknowledged as "other"']


def test_a_changed_event_is_found() -> None:
    assert check(History(recorded(RIGHT)), TOLD._replace(published={EVENT: 8})) == [
        f"event {EVENT} is not as it was acknowledged"
    ]


def test_an_acknowledged_start_that_is_missing_is_found() -> None:
    lost = uuid4()
    assert check(History(recorded(RIGHT)), TOLD._replace(started=[lost])) == [
        f"the start of run {lost} was acknowledged and is not in the log"
    ]


def test_a_gap_in_a_stream_is_found() -> None:
    events = recorded(RIGHT)
    del events[2]
    assert any("version 2 is missing before it" in each for each in check(History(events), TOLD))


def test_a_broken_chain_is_found() -> None:
    events = recorded(RIGHT)
    events[3] = events[3]._replace(metadata=b'{"node": "other"}')
    assert any("its hash does not match" in each for each in check(History(events), TOLD))


def test_an_event_twice_in_the_log_is_found() -> None:
    events = recorded(RIGHT)
    events[5] = events[5]._replace(id=events[2].id)
    assert any("is in the log 2 times" in each for each in check(History(events), TOLD))


def test_a_position_out_of_order_is_found() -> None:
    events = recorded(RIGHT)
    events[5] = events[5]._replace(position=2)
    assert any("position 2 comes after position 5" in each for each in check(History(events), TOLD))


@pytest.mark.parametrize(
    ("events", "rows", "finding"),
    [
        (9, {"timers": [(RUN, "retry:a")], "waits": [(RUN, 1)]}, "is open, and the working set does not say so"),
        (9, {"open_runs": [RUN, RUN], "timers": [(RUN, "retry:a")], "waits": [(RUN, 1)]}, "is open 2 times"),
        (9, {"open_runs": [RUN], "waits": [(RUN, 1)]}, "has no timer retry:a"),
        (9, {"open_runs": [RUN], "timers": [(RUN, "retry:a")]}, "waits for trigger 1"),
        (14, {"open_runs": [RUN]}, "is in the working set, and is not open"),
        (14, {"timers": [(RUN, "retry:a")]}, "has timers or waits, and is not open"),
        (14, {"waits": [(RUN, 1)]}, "has timers or waits, and is not open"),
    ],
)
def test_a_working_set_that_is_not_the_logs_is_found(events: int, rows: dict[str, Any], finding: str) -> None:
    findings = check(History(recorded(RIGHT[:events]), **rows))
    assert len(findings) == 1
    assert finding in findings[0]

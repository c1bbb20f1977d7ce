"""The judge of the node's chaos finds every kind of wrong: it is shown one for each promise, and what is right."""

from typing import Any
from uuid import uuid4

import pytest
from acceptance.checker import History
from acceptance.histories import EVENT, NODE, RUN, Line, line, recorded, task
from bad_days.judge import Booked, Call, Evidence, Judge
from bad_days.shape import Fate, Life, Shape, plus
from bad_days.shapes import AGAIN, TWICE

ERROR = {"error": {"type": "RuntimeError", "message": "no"}}
FATES = {
    "a": plus(1), "b": Fate(stumbles=1, errors=frozenset({"RuntimeError"})), "c": plus(1), "d": Fate(), "e": Fate(),
}  # fmt: skip


def define(*tasks: dict[str, Any]) -> dict[str, Any]:
    return {"workflow_id": "w", "tasks": list(tasks)}


SHAPE = Shape(
    define(
        {"task_id": "a", "type": "work", "triggers": []},
        {"task_id": "b", "type": "flaky", "triggers": ["a.completed"], "retry": TWICE},
        {"task_id": "c", "type": "work", "triggers": ["b.failed"]},
        {"task_id": "d", "type": "book", "triggers": [{"all": ["a.completed", {"event": "came"}]}]},
        {"task_id": "e", "type": "send", "depends_on": ["d"], "delivery": "at_most_once"},
    ),
    FATES, 1, output=lambda n: n,
)  # fmt: skip


def attempt(task_id: str, number: int = 1, **more: Any) -> list[Line]:
    return [task("TaskScheduled", number, task_id), task("TaskStarted", number, task_id, node=str(NODE), **more)]


RIGHT: list[Line] = [
    line("RunStarted", workflow_id="w", digest="d"),
    *attempt("a"),
    task("TaskCompleted", 1, "a", {"output": 8}),
    *attempt("b"),
    task("TaskFailed", 1, "b", ERROR, retry_at="2026-01-01"),
    *attempt("b", 2),
    task("TaskCompleted", 2, "b", {"output": None}),
    line("TaskSkipped", task_id="c", reason="b completed, not failed"),
    line("EventLatched", event="came", event_id=str(EVENT), triggers=[0]),
    *attempt("d"),
    task("TaskCompleted", 1, "d", {"output": "token"}),
    *attempt("e", at_most_once=True),
    task("TaskCompleted", 1, "e", {"output": None}),
    line("RunCompleted", payload={"output": 7}),
]
LEDGER = [Booked(str(RUN), "d", 1, "token")]
BEGUN = [("a", 1), ("b", 1), ("b", 2), ("d", 1), ("e", 1)]
CALLS = [Call("begins", str(RUN), name, number, 1, float(place)) for place, (name, number) in enumerate(BEGUN)]


def life(shape: Shape = SHAPE, **more: Any) -> Life:
    return Life(shape, 7, run=str(RUN), **more)


def judged(lines: list[Line] = RIGHT, shape: Shape = SHAPE, **more: Any) -> list[str]:
    """The findings; what is not given is right."""
    history = more.pop("history", None) or History(recorded(lines))
    given = {"lives": [life(shape)], "ledger": LEDGER, "calls": CALLS, **more}
    return Judge(Evidence(history, **given)).findings


def edited(type_: str, task_id: str, *instead: Line, after: bool = False) -> list[Line]:
    """The right history with an event, or all from it on, given otherwise."""
    place = next(
        number
        for number, (_, name, data, _) in enumerate(RIGHT)
        if name == type_ and data.get("task_id", "") == task_id
    )
    return [*RIGHT[:place], *instead, *([] if after else RIGHT[place + 1 :])]


def test_what_is_right_has_no_findings() -> None:
    assert judged(lives=[life(events=[str(EVENT)])]) == []


@pytest.mark.parametrize(
    ("lines", "finding"),
    [
        (RIGHT[:-1], "it did not end"),
        ([*RIGHT[:-1], line("RunFailed", tasks=["b"])], "with RunFailed, and by its tasks it was to be RunCompleted"),
        ([*RIGHT[:-1], line("RunCancelled")], "with RunCancelled, and by its tasks it was to be RunCompleted"),
        ([*RIGHT[:-1], line("RunCompleted", payload={"output": 6})], "its output is 6, not 7"),
        (edited("TaskCompleted", "a", task("TaskCompleted", 1, "a", {"output": 9})), "the output of a is 9, not 8"),
        (edited("TaskSkipped", "c", *attempt("c"), task("TaskCompleted", 1, "c")), "c was to be skipped"),
        (
            edited("TaskStarted", "e", line("TaskSkipped", task_id="e"), RIGHT[-1], after=True),
            "e was skipped, and was ready",
        ),
        (edited("TaskFailed", "b", task("TaskTimedOut", 1, "b", retry_at="x")), "b timed out, and has no limit"),
        (
            edited("TaskFailed", "b", task("TaskFailed", 1, "b", {"error": {"type": "Bug"}}, retry_at="x")),
            "attempt 1 of b failed with Bug",
        ),
        (
            edited("TaskCompleted", "b", task("TaskFailed", 2, "b", ERROR, retry_at="x"), *attempt("b", 3),
                   task("TaskCompleted", 3, "b")),
            "attempt 2 of b failed, and was to complete",
        ),
        (
            edited("TaskCompleted", "b", *[each for n in (2, 3) for each in
                   (task("TaskFailed", n, "b", ERROR, retry_at="x"), *attempt("b", n + 1))],
                   task("TaskCompleted", 4, "b")),
            "b failed 3 times, and is to be tried 2 times",
        ),
        (
            edited("TaskFailed", "b", task("TaskFailed", 1, "b", ERROR), line("RunFailed", tasks=["b"]), after=True),
            "b ended with TaskFailed after 1 failures and 0 deaths",
        ),
        (edited("TaskStarted", "e", *attempt("e")[1:]), "e was started as if it might be attempted again"),
        ([(RUN, "RunStarted", {"workflow_id": "other"}, None), *RIGHT[1:]], "it is a run of other"),
        (
            [*RIGHT, (uuid4(), "RunStarted", {"workflow_id": "w"}, None)],
            "is in the log, and nobody asked for it",
        ),
        ([], "w 7 was asked for and never started"),
    ],
)  # fmt: skip
def test_an_end_that_is_not_the_definitions_is_found(lines: list[Line], finding: str) -> None:
    findings = judged(lines)
    assert any(finding in each for each in findings), findings


def test_bad_luck_excuses_what_it_explains_and_no_more() -> None:
    deaths: list[Line] = []
    for number in range(2, 7):
        deaths += [*attempt("b", number), task("TaskInterrupted", number, "b", node=str(NODE))]
    broken = [task("TaskFailed", 6, "b"), *attempt("c"), task("TaskCompleted", 1, "c", {"output": 8}), *RIGHT[11:]]
    calls = [*CALLS, *[Call("begins", str(RUN), "b", number, 1, 9.0) for number in range(3, 7)]]
    calls.append(Call("begins", str(RUN), "c", 1, 1, 9.0))
    assert judged([*RIGHT[:7], *deaths, *broken], calls=calls) == []
    four = [*RIGHT[:7], *deaths[:-3], task("TaskFailed", 5, "b"), *broken[1:]]
    assert any("b ended with TaskFailed after 1 failures and 4 deaths" in each for each in judged(four, calls=calls))


@pytest.mark.parametrize(
    ("rows", "finding"),
    [
        ([], "the ledger has [] of d"),
        ([*LEDGER, *LEDGER], "the ledger has [(1, 'token'), (1, 'token')] of d"),
        ([*LEDGER, Booked(str(RUN), "d", 2, "other")], "(2, 'other')] of d"),
        ([LEDGER[0]._replace(token="other")], "the ledger has [(1, 'other')] of d"),
        ([*LEDGER, Booked(str(RUN), "x", 1, "token")], "the ledger has [(1, 'token')] of x, and the log says None"),
    ],
)
def test_a_booking_that_is_not_there_exactly_once_is_found(rows: list[Booked], finding: str) -> None:
    findings = judged(ledger=rows)
    assert any(finding in each for each in findings), findings


@pytest.mark.parametrize(
    ("calls", "finding"),
    [
        ([*CALLS, CALLS[0]], "attempt 1 of a was executed 2 times"),
        ([*CALLS, CALLS[0]._replace(attempt=2)], "attempt 2 of a was executed, and its start is not in the log"),
        (CALLS[1:], "attempt 1 of a completed, and was never executed"),
        ([*CALLS, CALLS[-1]], "e was executed 2 times, and was to be at most once"),
    ],
)
def test_a_call_that_should_not_have_been_made_is_found(calls: list[Call], finding: str) -> None:
    findings = judged(calls=calls)
    assert any(finding in each for each in findings), findings


WAITS = Shape(define({"task_id": "a", "type": "work", "triggers": ["came"]}), {"a": plus(1)}, 1, "cancel")


@pytest.mark.parametrize(
    ("end", "script", "more", "flags", "finding"),
    [
        ("RunCancelled", "cancel", {"cancelled": True}, {}, "it is open, and was to be RunCancelled"),
        ("RunTimedOut", "start", {}, {}, "it is open, and was to be RunTimedOut"),
        ("open", "leave", {}, {}, "it waits, and is not parked"),
        ("open", "leave paused", {"held": True}, {"parked": [RUN]}, "it was to be paused, and never was"),
        ("open", "leave paused", {"held": True}, {"parked": [RUN]}, "it is not paused"),
        ("open", "leave", {"events": [str(EVENT)]}, {"parked": [RUN]}, f"it never got {EVENT}"),
    ],
)
def test_a_run_that_is_not_as_it_was_to_stay_is_found(
    end: Any, script: Any, more: dict[str, Any], flags: dict[str, Any], finding: str
) -> None:
    shape = Shape(WAITS.definition, {}, 1, script, end)
    history = History(recorded(RIGHT[:1]), [RUN], **flags)
    findings = judged(shape=shape, history=history, lives=[life(shape, **more)], ledger=[], calls=[])
    assert any(finding in each for each in findings), findings


def gate(name: str) -> list[Line]:
    """Scheduled with a key, and begun."""
    scheduled = task("TaskScheduled", 1, name, {"concurrency_key": "one 3"})
    return [scheduled, task("TaskStarted", 1, name, node=str(NODE))]


def test_more_of_a_key_at_once_than_its_limit_are_found() -> None:
    names = ("a", "b")
    shape = Shape(
        define(*[{"task_id": name, "type": "gate", "triggers": [], "retry": AGAIN} for name in names]),
        {name: Fate() for name in names}, 1,
    )  # fmt: skip
    one, two = gate("a"), gate("b")
    ends = [task("TaskCompleted", 1, name, {"output": None}) for name in names]
    right = [RIGHT[0], *one, ends[0], *two, ends[1], line("RunCompleted")]
    moments = [("begins", "a", 1.0), ("ends", "a", 2.0), ("begins", "b", 3.0), ("ends", "b", 4.0)]
    calls = [Call(what, str(RUN), name, 1, 1, moment) for what, name, moment in moments]
    assert judged(right, shape, ledger=[], calls=calls) == []
    wrong = judged([RIGHT[0], *one, *two, *ends, line("RunCompleted")], shape, ledger=[], calls=calls)
    assert wrong == [f"run {RUN}: with b more than 1 of 'one 3' are under way"]
    overlapping = [*calls[:2], calls[2]._replace(moment=1.5), calls[3]]
    assert judged(right, shape, ledger=[], calls=overlapping) == [
        f"run {RUN}: 2 handlers of 'one 3' at once at 1.500, and 1 may be"
    ]


def test_a_node_that_records_something_after_it_was_taken_for_dead_is_found() -> None:
    history = History(recorded(RIGHT, b'{"node": "%s"}' % str(NODE).encode()))
    assert judged(history=history, fenced={str(NODE): len(RIGHT)}) == []
    assert judged(history=history, fenced={str(NODE): len(RIGHT) - 2}) == [
        f"node {NODE} recorded 2 events after it was taken for dead"
    ]

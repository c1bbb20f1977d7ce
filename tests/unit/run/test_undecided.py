"""A decision that raises, which none should, ends in a failure that is recorded."""

from typing import Any

import pytest

from perdure_engine.run import RunState, new_run, undecided
from perdure_engine.run import advance as really_advance
from perdure_engine.run import commands as c
from perdure_engine.run import events as e
from perdure_engine.run.undecided import fail_instead
from perdure_eventstore.door import Json

from .given import AT, MORE, RUN, define, fold, run_started, scheduled, started, task

TWO = define(task("a", "go"), task("b", "a.failed"), task("c", "go", "later"))
FAULT = ZeroDivisionError("by \0 \ud800")
COMPLETE = c.CompleteAttempt(at=AT, task_id="a", attempt=1, output=Json(b"1"))
RECEIVE = c.ReceiveEvent(at=AT, event="later", event_id=MORE, payload=Json(b"{}"))


@pytest.fixture
def under_way() -> RunState:
    return fold(new_run(TWO, RUN), [run_started(TWO), scheduled("a"), scheduled("c"), started("a")])


def test_the_attempt_fails_and_what_handles_that_goes_on(under_way: RunState) -> None:
    events, state, raised = fail_instead(under_way, COMPLETE, FAULT, AT)
    failed, handler = events[:2]
    assert isinstance(failed, e.TaskFailed)
    assert failed.error.value == {
        "type": "Undecided",
        "message": "what follows from a CompleteAttempt could not be decided: ZeroDivisionError: by \\x00 \\ud800",
    }
    assert isinstance(handler, e.TaskScheduled)
    assert (handler.task_id, state.status, raised) == ("b", "open", [])
    assert fold(under_way, events) == state


def test_without_an_attempt_the_run_stops_as_failed_and_its_reason_shows_nothing_given(under_way: RunState) -> None:
    events, state, _ = fail_instead(under_way, RECEIVE, FAULT, AT)
    reason = "a ReceiveEvent could not be decided; see the log"
    assert events[:2] == [
        e.EventIgnored(event="later", event_id=MORE, reason=reason),
        e.RunStopping(outcome="failed", reason=reason),
    ]
    assert fold(under_way, events) == state
    assert state.status == "stopping"
    assert state.task("c").status == "cancelled"


def test_a_run_that_cannot_even_be_stopped_ends_at_once(
    under_way: RunState, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    def advance(state: RunState, command: c.RunCommand) -> Any:
        raise RuntimeError("again")

    monkeypatch.setattr(undecided, "advance", advance)
    events, state, raised = fail_instead(under_way, COMPLETE, FAULT, AT)
    assert [type(event) for event in events] == [e.RunFailed]
    assert state.is_ended
    assert [str(each) for each in raised] == ["again", "again"]
    assert fail_instead(state, COMPLETE, FAULT, AT)[0] == []


def test_an_attempt_that_is_over_is_not_failed_again_but_its_run_is(under_way: RunState) -> None:
    _, over = really_advance(under_way, COMPLETE)
    events, state, _ = fail_instead(over, COMPLETE, FAULT, AT)
    assert isinstance(events[0], e.RunStopping)
    assert state.outcome == "failed"

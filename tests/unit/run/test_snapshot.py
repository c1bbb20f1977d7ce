"""A snapshot is the state, whole: what follows is the same with and without it."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from immutables import Map
from msgspec.structs import fields

from perdure_engine.run import RunState, TaskState, new_run
from perdure_engine.run.snapshot import SnapshotUnreadable, pack, unpack
from perdure_engine.run.state import Occurrence
from perdure_eventstore.door import NULL, Json

from .documents import EVENTS, documents
from .given import GO, NODE, RUN, define, fold, run_started, stop, task
from .test_core_properties import FEW, Shell, reloaded

EXACT = Json('{"n": 1.0, "text": "café", "big": 18446744073709551615}'.encode())
TWO = define(task("a", "go"), task("b", "a.completed"))
HALF_DONE = TaskState((0, -1), "started", 3, 2, 1, NODE, True, "key", EXACT, NULL, EXACT)
FULL = RunState(
    definition=TWO, status="stopping", run_id=RUN, input=EXACT, start=Occurrence("go", EXACT, GO, 'a "key"'),
    tasks=Map({"a": HALF_DONE, "b": TaskState((1,))}),
    latched=Map({1: Occurrence("go", EXACT), 7: Occurrence(None, NULL)}),
    live_waits=Map({2: 3}), expired=frozenset({4, 5_000}), seen=Map({GO: True, UUID(int=0): True}), active=2, pending=1,
    paused=True, ended=1, unhandled=Map({"a": True}), any_completed=True, outcome="timed_out", stop_reason="so",
    output=NULL, error=EXACT,
)  # fmt: skip


def copied(state: RunState) -> RunState:
    return unpack(pack(state), state.definition)


def test_every_field_is_kept() -> None:
    untouched = new_run(TWO, UUID(int=9))
    same = [f.name for f in fields(RunState) if getattr(FULL, f.name) == getattr(untouched, f.name)]
    assert same == ["definition"], "the example has every field at another value than its default"
    assert copied(FULL) == FULL
    assert copied(untouched) == untouched


def test_json_is_kept_byte_for_byte_and_frozen_maps_are_maps() -> None:
    found = copied(FULL)
    assert found.input.text == EXACT.text
    assert {type(getattr(found, name)) for name in ("tasks", "latched", "live_waits", "seen", "unhandled")} == {Map}
    assert type(found.tasks["a"].lacks) is tuple
    assert found.tasks["b"].inputs is NULL


@FEW
@given(documents(), st.data())
def test_a_snapshot_at_any_event_and_the_tail_make_the_state_of_the_straight_fold(
    document: dict[str, Any], data: st.DataObject
) -> None:
    shell = Shell(document)
    shell.start(data.draw(st.sampled_from([*sorted(shell.definition.entries), None])), {"n": 1})
    for number in range(2, data.draw(st.integers(2, 30))):
        possible = shell.possible()
        if not possible or data.draw(st.integers(0, 3)) == 0:
            shell.publish(data.draw(st.sampled_from(EVENTS)), number, {"n": number % 3})
        else:
            shell.give(data.draw(st.sampled_from([*possible, stop()])))
    cut = data.draw(st.integers(0, len(shell.log)))
    before = fold(new_run(shell.definition, RUN), map(reloaded, shell.log[:cut]))
    snapshot = copied(before)
    assert snapshot == before
    assert copied(snapshot) == before
    assert fold(snapshot, map(reloaded, shell.log[cut:])) == shell.state


def test_what_follows_from_a_snapshot_goes_on_from_it_alone() -> None:
    started = fold(new_run(TWO, RUN), [run_started(TWO)])
    kept = copied(started)
    fold(started, [run_started(TWO)])
    assert kept == started


def test_a_snapshot_of_another_definition_is_refused() -> None:
    other = define(task("a", "go"))
    with pytest.raises(SnapshotUnreadable, match="another definition"):
        unpack(pack(FULL), other)


@pytest.mark.parametrize("wrong", [b"", b"no zlib", pack(FULL)[:-9], pack(FULL)[:40] + b"\0" + pack(FULL)[41:]])
def test_bytes_that_are_no_snapshot_are_refused(wrong: bytes) -> None:
    with pytest.raises(SnapshotUnreadable):
        unpack(wrong, TWO)

"""A run's events as the log keeps them, and back: nothing is lost, and no payload stands among the engine's facts."""

from datetime import UTC, datetime
from typing import get_args
from uuid import UUID

import pytest

from perdure_engine.run import events as e
from perdure_engine.run.codec import EVENT_TYPES, decode, encode
from perdure_engine.upcasting import UnreadableEvent
from perdure_eventstore.door import NULL, Json
from perdure_eventstore.events import NewEvent, RecordedEvent

from .given import AT, NODE, RUN

PRECISE = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
SECRET = Json(b'{"n": 1.0, "text": "caf\xc3\xa9", "big": 18446744073709551615}')
EVENTS: list[e.RunEvent] = [
    e.RunStarted(workflow_id="w", digest="d"),
    e.RunStarted(
        workflow_id="w", digest="d", event="go", event_id=RUN, key="k", keyed=True, latched=(0, 2), deadline=PRECISE,
        waits=(e.WaitArmed(1, "paid", PRECISE), e.WaitArmed(3, "shipped")), input=SECRET,
    ),
    e.TaskScheduled(task_id="a", attempt=1, inputs=SECRET),
    e.TaskScheduled(task_id="a", attempt=1, inputs=NULL),
    e.TaskScheduled(task_id="a", attempt=1, start_by=PRECISE, inputs=SECRET),
    e.TaskDelayed(task_id="a", until=PRECISE),
    e.TaskDelayed(task_id="a", until=PRECISE, inputs=SECRET),
    e.TaskScheduled(task_id="a", attempt=2),
    e.TaskStarted(task_id="a", attempt=1, node=NODE),
    e.TaskStarted(task_id="a", attempt=1, node=NODE, at_most_once=True),
    e.TaskCompleted(task_id="a", attempt=1),
    e.TaskCompleted(task_id="a", attempt=1, output=SECRET),
    e.TaskFailed(task_id="a", attempt=0, error=SECRET),
    e.TaskFailed(task_id="a", attempt=1, retry_at=PRECISE, error=SECRET),
    e.TaskTimedOut(task_id="a", attempt=1, timeout=0.1, retry_at=PRECISE),
    e.TaskInterrupted(task_id="a", attempt=1, node=NODE),
    e.TaskInterrupted(task_id="a", attempt=1, node=NODE, clean=True),
    e.TaskSkipped(task_id="a", reason="for \"no\" reason\n"),
    e.TaskCancelled(task_id="a", attempt=1),
    e.EventLatched(event="go", triggers=(1, 2), payload=SECRET),
    e.EventLatched(event="go", event_id=RUN, key="k", triggers=(0,)),
    e.EventIgnored(event="go", event_id=RUN, reason="late"),
    e.WaitExpired(trigger=0, event="go"),
    e.RunPaused(reason="so"),
    e.RunResumed(),
    e.RunStopping(outcome="cancelled", reason="so"),
    e.RunCompleted(),
    e.RunCompleted(output=NULL),
    e.RunCompleted(output=SECRET),
    e.RunFailed(),
    e.RunFailed(tasks=("a", "b"), error=SECRET),
    e.RunTimedOut(),
    e.RunCancelled(reason="so"),
]  # fmt: skip


def recorded(new: NewEvent, payload: bytes | None) -> RecordedEvent:
    return RecordedEvent(
        1, AT, RUN, 1, new.schema_version, UUID(int=1), new.type, new.data, new.metadata, payload, None, None, b""
    )


def test_every_event_type_is_shown_here() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(e.RunEvent)) == set(EVENT_TYPES.values())


@pytest.mark.parametrize("event", EVENTS, ids=repr)
def test_what_is_written_is_read_back(event: e.RunEvent) -> None:
    new = encode(event, b'{"node":"n"}')
    assert (new.type, new.metadata, new.schema_version) == (type(event).__name__, b'{"node":"n"}', event.SCHEMA_VERSION)
    assert decode(recorded(new, new.payload)) == event


@pytest.mark.parametrize("event", EVENTS, ids=repr)
def test_no_payload_stands_in_the_data(event: e.RunEvent) -> None:
    data = encode(event, b"{}").data
    assert b"text" not in data
    assert b'"key"' not in data


def test_payload_is_kept_byte_for_byte() -> None:
    new = encode(e.TaskCompleted(task_id="a", attempt=1, output=SECRET), b"{}")
    assert new.data == b'{"task_id":"a","attempt":1}'
    assert new.payload == b'{"output":' + SECRET.text + b"}"


def test_an_event_without_payload_has_none() -> None:
    assert encode(e.TaskScheduled(task_id="a", attempt=2), b"{}").payload is None
    assert encode(e.RunCompleted(), b"{}").payload is None
    assert encode(e.RunTimedOut(), b"{}").payload is None


@pytest.mark.parametrize("event", EVENTS, ids=repr)
def test_an_erased_payload_reads_as_null_or_none(event: e.RunEvent) -> None:
    read = decode(recorded(encode(event, b"{}"), None))
    assert type(read) is type(event)
    for field in ("input", "output", "inputs", "error", "payload"):
        assert getattr(read, field, None) in (None, NULL)
    assert getattr(read, "key", None) is None


def test_a_key_is_payload() -> None:
    new = encode(e.RunStarted(workflow_id="w", digest="d", key='the "k"é', input=SECRET), b"{}")
    assert new.data == b'{"workflow_id":"w","digest":"d"}'
    assert new.payload == '{"key":"the \\"k\\"é","input":'.encode() + SECRET.text + b"}"


def test_an_event_type_that_no_run_has_is_refused() -> None:
    with pytest.raises(UnreadableEvent, match="is a Other, which this Perdure does not know here"):
        decode(recorded(NewEvent("Other"), None))

"""A stored sample of every version of every event type that was ever written.

``python tests/event_samples.py`` writes those that are missing, by the program as it stands, and changes none. What a
sample was written as (``data``, ``payload``, ``shape``) stays for ever; what it ``means`` is said in today's fields, so
who makes a new version may have to say it anew.
"""

import hashlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import orjson

from perdure.cli.event_schema import event_schema
from perdure_engine import facts as f
from perdure_engine.event_codec import Codecs
from perdure_engine.run import events as e
from perdure_engine.run.codec import EVENT_TYPES
from perdure_eventstore.door import Json
from perdure_eventstore.events import RecordedEvent

FOLDER = Path(__file__).parent / "samples" / "events"
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
ID = UUID("019a0000-0000-7000-8000-000000000001")
GIVEN = Json('{"n": 1.0, "text": "café", "big": 18446744073709551615}'.encode())
CODECS = Codecs((*EVENT_TYPES.values(), *f.FACT_TYPES.values()))

EXAMPLES: list[Any] = [
    e.RunStarted(
        workflow_id="orders", digest="d1", event="ordered", event_id=ID, key='ada "1"', keyed=True, latched=(0, 2),
        waits=(e.WaitArmed(1, "paid", AT), e.WaitArmed(3, "shipped")), deadline=AT, input=GIVEN,
    ),
    e.TaskDelayed(task_id="pack", until=AT, concurrency_key="ada", inputs=GIVEN),
    e.TaskScheduled(task_id="pack", attempt=1, start_by=AT, concurrency_key="ada", inputs=GIVEN),
    e.TaskStarted(task_id="pack", attempt=1, node=ID, at_most_once=True),
    e.TaskCompleted(task_id="pack", attempt=1, output=GIVEN),
    e.TaskFailed(task_id="pack", attempt=2, retry_at=AT, error=GIVEN),
    e.TaskTimedOut(task_id="pack", attempt=3, timeout=2.5, limit="heartbeat", retry_at=AT),
    e.TaskInterrupted(task_id="pack", attempt=4, node=ID, clean=True),
    e.TaskSkipped(task_id="pack", reason="`when` is false"),
    e.TaskCancelled(task_id="pack", attempt=5),
    e.EventLatched(event="paid", event_id=ID, key="ada", triggers=(1, 2), payload=GIVEN),
    e.EventIgnored(event="paid", event_id=ID, reason="an earlier one was taken"),
    e.WaitExpired(trigger=3, event="shipped"),
    e.RunPaused(reason="a flood"),
    e.RunResumed(reason="it is dry again"),
    e.RunStopping(outcome="cancelled", reason="not wanted"),
    e.RunCompleted(output=GIVEN),
    e.RunFailed(tasks=("pack", "send"), error=GIVEN),
    e.RunTimedOut(),
    e.RunCancelled(reason="not wanted"),
    f.EventPublished(name="ordered", key="ada", run=ID, payload=GIVEN),
    f.StartRequested(workflow_id="orders", run=ID, event="ordered", key="ada", payload=GIVEN),
    f.EventRouted(
        matches=(f.Match("orders", "started", ID), f.Match("bills", "ignored", reason="its key is null")), reason="why",
    ),
    f.DefinitionRegistered(workflow_id="orders", number=2, digest="d1", payload=GIVEN),
    f.DefinitionRetired(workflow_id="orders", number=2),
    f.ScheduleSet(
        name="nightly", workflow_id="orders", cron="30 2 * * *", timezone="Europe/Berlin", overlap="queue",
        catch_up="all", next_due=AT, event="ordered", key="ada", payload=GIVEN,
    ),
    f.SchedulePaused(reason="an audit"),
    f.ScheduleResumed(next_due=AT),
    f.ScheduleDeleted(),
    f.ScheduleFired(due=AT, turn="clock", outcome="started", run=ID, reason="why", next_due=AT),
    f.ScheduleMissed(first=AT, next_due=AT),
    f.BackfillRequested(start=AT, end=AT, overlap="allow"),
    f.BackfillPlanned(due=(AT, AT), upto=AT, ended=True),
]  # fmt: skip


class Sample(msgspec.Struct, frozen=True):
    """An event as it was written, what it means today, and the shape its type had then."""

    type: str
    version: int
    data: str
    payload: str | None
    means: dict[str, Any]
    shape: str

    @property
    def file(self) -> Path:
        return FOLDER / f"{self.type}.v{self.version}.json"

    @property
    def recorded(self) -> RecordedEvent:
        """The sample as it would be read from the log."""
        payload = None if self.payload is None else self.payload.encode()
        return RecordedEvent(
            1, AT, ID, 1, self.version, ID, self.type, self.data.encode(), b"{}", payload, None, None, b""
        )  # fmt: skip


def read_samples() -> list[Sample]:
    """Every one there is."""
    return [msgspec.json.decode(file.read_bytes(), type=Sample) for file in sorted(FOLDER.glob("*.json"))]


def meaning(event: Any) -> dict[str, Any]:
    """An event's fields as plain JSON; a Json is its text."""
    found: dict[str, Any] = orjson.loads(msgspec.json.encode(event, enc_hook=lambda given: given.text.decode()))
    return found


def shape(type_: str) -> str:
    """A digest of an event type's fields, their types and defaults: another one is another version."""
    definitions = event_schema()["$defs"]
    described = definitions[type_]["properties"]
    text = orjson.dumps([described["data"], described["payload"], _referenced(described, definitions)], option=_SORTED)
    return hashlib.sha256(orjson.dumps(_without_words(orjson.loads(text)), option=_SORTED)).hexdigest()


_SORTED = orjson.OPT_SORT_KEYS


def _referenced(described: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    text = orjson.dumps(described).decode()
    return {name: each for name, each in definitions.items() if f'"#/$defs/{name}"' in text}


def _without_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_words(each) for name, each in value.items() if name not in ("description", "title")}
    return [_without_words(each) for each in value] if isinstance(value, list) else value


def sample_of(event: Any) -> Sample:
    """``event`` as this program writes it."""
    new = CODECS.encode(event, b"{}")
    payload = None if new.payload is None else new.payload.decode()
    return Sample(new.type, new.schema_version, new.data.decode(), payload, meaning(event), shape(new.type))


def write_missing() -> None:
    """Write a sample of each type's present version where there is none."""
    for sample in map(sample_of, EXAMPLES):
        if not sample.file.exists():
            sample.file.write_bytes(msgspec.json.format(msgspec.json.encode(sample), indent=2) + b"\n")
            sys.stdout.write(f"{sample.file.name}\n")


if __name__ == "__main__":
    write_missing()

"""Histories written by hand, to show a checker what is right and what is wrong."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import orjson

from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.hashing import event_hash, payload_digest

RUN, EVENT, NODE = (UUID(int=number) for number in (0xA, 0xE, 0x0D))
AT = datetime(2026, 1, 1, tzinfo=UTC)
SALT = b"s" * 16

Line = tuple[UUID, str, dict[str, Any], Any]


def line(type_: str, stream: UUID = RUN, payload: Any = None, **data: Any) -> Line:
    return stream, type_, data, payload


def task(type_: str, attempt: int = 1, task_id: str = "a", payload: Any = None, **data: Any) -> Line:
    return line(type_, payload=payload, task_id=task_id, attempt=attempt, **data)


def recorded(lines: Sequence[Line], metadata: bytes = b"{}") -> list[RecordedEvent]:
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
            previous, stream.bytes, version + 1, id_.bytes, type_.encode(), 1, moment, text, metadata, digest
        )  # fmt: skip
        heads[stream] = version + 1, hash_
        salt = None if kept is None else SALT
        events.append(
            RecordedEvent(position, AT, stream, version + 1, 1, id_, type_, text, metadata, kept, salt, digest, hash_)
        )
    return events

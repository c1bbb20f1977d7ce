"""The schedules: each row against the fold of its stream."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from uuid import UUID

import orjson

from perdure_engine.doctor.faults import Fault, Row, compared
from perdure_engine.doctor.snapshot import Snapshot
from perdure_engine.facts import decode_fact
from perdure_engine.kinds import types_of
from perdure_engine.schedules.rows import COLUMNS, row_of
from perdure_engine.schedules.schedule import Schedule, evolve
from perdure_eventstore.events import RecordedEvent

_PAGE = 2_000
_TYPES: Final = sorted(types_of("schedule"))
_COLUMNS: Final = (*COLUMNS, "shard", "has_more")


async def check_schedules(log: Snapshot, only: Sequence[Fault] | None = None) -> AsyncIterator[Fault]:
    """Whatever is wrong with the schedules; ``only`` of these, found before. Raises LogError."""
    streams = None if only is None else [fault.where["schedule"] for fault in only if fault.table == "schedules"]
    if streams == []:
        return
    there = await _rows(log, streams)
    meant, unreadable = await _folded(log, streams)
    for stream in sorted({*there, *meant} - unreadable):
        row = _row(stream, meant.get(stream))
        why = "" if row is not None else "the schedule was deleted" if stream in meant else "there is no such schedule"
        if fault := compared("schedules", {"schedule": stream}, there.get(stream), row, why):
            yield fault


async def _rows(log: Snapshot, streams: Sequence[UUID] | None) -> dict[UUID, Row]:
    statement = f"""select schedule, {", ".join(_COLUMNS)}, waiting::text from "{log.schema}".schedules
        where %s::uuid[] is null or schedule = any(%s)"""
    found = dict[UUID, Row]()
    async for page in log.pages(statement, (streams, streams), _PAGE):
        for stream, *values, waiting in page:
            found[stream] = dict(zip(_COLUMNS, values, strict=True)) | {"waiting": _text(waiting)}
    return found


async def _folded(log: Snapshot, streams: Sequence[UUID] | None) -> tuple[dict[UUID, Schedule | None], set[UUID]]:
    """What the events make of each; and those whose events cannot be read here."""
    # What is encrypted, or large, is no part of a schedule's state.
    columns = ", ".join("null" if "payload" in name else f"e.{name}" for name in RecordedEvent._fields)
    statement = f"""select {columns} from "{log.schema}".events e
        where type = any(%s) and (%s::uuid[] is null or stream = any(%s)) order by stream, version"""
    found, unreadable = dict[UUID, Schedule | None](), set[UUID]()
    async for page in log.pages(statement, (_TYPES, streams, streams), _PAGE):
        for event in map(RecordedEvent._make, page):
            if event.stream in unreadable:
                continue
            try:
                fact = decode_fact(event)
            except ValueError as error:
                log.remarks.append(f"schedule {event.stream} cannot be checked: {error}")
                unreadable.add(event.stream)
                continue
            found[event.stream] = evolve(found.get(event.stream), fact, event.stream, event.version)
    return found, unreadable


def _row(stream: UUID, schedule: Schedule | None) -> Row | None:
    """The row as a select would give it; None for one that was deleted."""
    if schedule is None:
        return None
    (row,) = row_of(stream, schedule, tell=False)["schedules"]
    waiting = row["waiting"]
    text = None if waiting is None else orjson.dumps(waiting).decode()
    return {column: row[column] for column in _COLUMNS} | {"waiting": text}


def _text(waiting: Any) -> str | None:
    """Written as ``_row`` writes it."""
    try:
        return None if waiting is None else orjson.dumps(orjson.loads(waiting)).decode()
    except orjson.JSONDecodeError:
        return str(waiting)

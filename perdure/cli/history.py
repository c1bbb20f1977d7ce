"""``perdure history``: every event of a run, as it was recorded."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from rich.markup import escape
from rich.table import Table

from perdure.cli import exits
from perdure.cli.archive import reader_of
from perdure.cli.looking import looking
from perdure.cli.output import emit, people, raw, utc
from perdure.cli.place import find_app
from perdure.cli.run_names import find_run, full_id
from perdure.cli.verb import Common
from perdure.cli.words import local, shortened
from perdure_engine.history import UnknownRun
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.read import Reader

_STYLES = {
    "TaskCompleted": "green",
    "RunCompleted": "bold green",
    "TaskFailed": "red",
    "TaskTimedOut": "red",
    "TaskInterrupted": "bold yellow",
    "RunFailed": "bold red",
    "RunTimedOut": "bold red",
    "RunCancelled": "bold magenta",
    "TaskSkipped": "dim",
}


async def print_history(common: Common, name: str, archive: str | None = None) -> int:
    """The verb. A whole id may also be that of a published event: it has a history too."""
    async with looking(find_app(common), views=full_id(name) is None) as client:
        run = await find_run(client, name)
        reader = await reader_of(client, run, archive)
        if common.json:
            await _emit_all(reader, run)
        else:
            events = [event async for event in reader.stream(run)]
            if not events:
                raise UnknownRun(run)
            people().print(history_table(events))
    return exits.DONE


async def _emit_all(reader: Reader, run: UUID) -> None:
    found = False
    async for event in reader.stream(run):
        emit(as_json(event))
        found = True
    if not found:
        raise UnknownRun(run)


def as_json(event: RecordedEvent) -> dict[str, Any]:
    """The event for machines. With the digest of its payload, its hash can be computed from these fields alone."""
    return {
        "position": event.position,
        "stream": event.stream,
        "version": event.version,
        "id": event.id,
        "type": event.type,
        "recorded_at": utc(event.recorded_at),
        "data": raw(event.data),
        "payload": raw(event.payload),
        "metadata": raw(event.metadata),
        "hash": event.hash.hex(),
        "schema_version": event.schema_version,
        "payload_salt": event.payload_salt.hex() if event.payload_salt else None,
        "payload_digest": event.payload_digest.hex() if event.payload_digest else None,
    }


def history_table(events: list[RecordedEvent]) -> Table:
    """The events for people: times count from the first."""
    begun = events[0].recorded_at
    table = Table(
        "", "after", "event", "task", "attempt", "node", "",
        title=f"{events[0].stream}, from {local(begun)}", title_justify="left", title_style="bold",
        box=None, pad_edge=False, header_style="bold",
    )  # fmt: skip
    for event in events:
        data = orjson.loads(event.data)
        style = _STYLES.get(event.type, "")
        name = f"⚡ {event.type}" if event.type == "TaskInterrupted" else event.type
        table.add_row(
            str(event.version),
            f"{(event.recorded_at - begun).total_seconds():.3f} s",
            f"[{style}]{name}[/]" if style else name,
            data.get("task_id", ""),
            str(data.get("attempt", "")),
            str(data.get("node", ""))[-8:],
            escape(shortened("; ".join(_details(event, data, begun)))),
        )
    return table


def _details(event: RecordedEvent, data: dict[str, Any], begun: datetime) -> Iterable[str]:
    if event.type == "TaskInterrupted":
        yield "its node stopped" if data.get("clean") else "its node died; the next attempt is not counted as a retry"
    if "event" in data:
        yield str(data["event"])
    if data.get("reason"):
        yield str(data["reason"])
    if data.get("retry_at"):
        due = (datetime.fromisoformat(data["retry_at"]) - begun).total_seconds()
        yield f"next attempt at {due:.1f} s"
    if event.payload is not None:
        yield _payload(event.payload)
    elif event.payload_digest is not None:
        yield "erased"


def _payload(text: bytes) -> str:
    """An error's message, and else what was given as it stands."""
    error = orjson.loads(text).get("error") if text.startswith(b'{"error"') else None
    if isinstance(error, dict) and "message" in error:
        return f"{error.get('type', 'error')}: {error['message']}"
    return text.decode()

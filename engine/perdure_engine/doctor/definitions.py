"""The registered definitions: against the events that registered and retired them."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from perdure_engine.doctor.faults import Fault, Row, compared
from perdure_engine.doctor.snapshot import Snapshot
from perdure_engine.facts import decode_fact
from perdure_engine.faults import DefinitionRefused
from perdure_engine.imported import definition_row
from perdure_engine.upcasting import UnreadableEvent
from perdure_eventstore.events import RecordedEvent

_PAGE = 100
_COLUMNS: Final = ("digest", "document", "events", "keyed", "registered_at", "retired_at")
_TYPES: Final = ["DefinitionRegistered", "DefinitionRetired"]

Key = tuple[str, int]


async def check_definitions(log: Snapshot, only: Sequence[Fault] | None = None) -> AsyncIterator[Fault]:
    """Whatever is wrong with the definitions; ``only`` where some were wrong before. Raises LogError."""
    if only is not None and not any(fault.table == "definitions" for fault in only):
        return
    there = dict[Key, Row]()
    columns = ", ".join(("workflow_id", "number", *_COLUMNS))
    async for page in log.pages(f'select {columns} from "{log.schema}".definitions', (), _PAGE):
        there |= {(row[0], row[1]): dict(zip(_COLUMNS, row[2:], strict=True)) for row in page}
    meant = await _meant(log)
    for key in sorted({*there, *meant}):
        where: Row = {"workflow_id": key[0], "number": key[1]}
        row = meant.get(key)
        if row is not None and row["document"] is None:
            # This Perdure cannot read it: what else is said of it has to do.
            row = {column: row[column] for column in ("registered_at", "retired_at")}
        if fault := compared("definitions", where, there.get(key), row):
            cannot_be_read = row is not None and "document" not in row and fault.there is None
            yield fault._replace(lost="its document cannot be read here" if cannot_be_read else "")


async def _meant(log: Snapshot) -> dict[Key, Row]:
    columns = ", ".join(
        "coalesce(e.payload, p.payload)" if name == "payload" else f"e.{name}" for name in RecordedEvent._fields
    )
    statement = f"""select {columns} from "{log.schema}".events e
        left join "{log.schema}".payloads p on p.stream = e.stream and p.version = e.version
        where e.type = any(%s) order by e.position"""
    meant = dict[Key, Row]()
    async for page in log.pages(statement, (_TYPES,), _PAGE):
        for event in map(RecordedEvent._make, page):
            _take(log, meant, event)
    return meant


def _take(log: Snapshot, meant: dict[Key, Row], event: RecordedEvent) -> None:
    try:
        fact = decode_fact(event)
    except UnreadableEvent as error:
        log.remarks.append(f"a definition cannot be checked: {error}")
        return
    if event.type == "DefinitionRetired":
        for (workflow_id, _), row in meant.items():
            if workflow_id == fact.workflow_id and row["retired_at"] is None:
                row["retired_at"] = event.position
        return
    try:
        row = definition_row(event)
    except (ValueError, DefinitionRefused) as error:
        log.remarks.append(f"version {fact.number} of {fact.workflow_id} cannot be read here: {error}")
        row = dict.fromkeys(_COLUMNS)
    row = {column: row.get(column) for column in _COLUMNS}
    meant[fact.workflow_id, fact.number] = row | {"registered_at": event.position, "retired_at": None}

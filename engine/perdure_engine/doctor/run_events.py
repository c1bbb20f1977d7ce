"""The events of open runs, as far as the working set depends on them."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from perdure_engine.doctor.expected import Expected
from perdure_engine.doctor.snapshot import Snapshot
from perdure_engine.run.codec import decode
from perdure_engine.run.events import RunStarted
from perdure_engine.upcasting import UnreadableEvent
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.keeper import KEEPING
from perdure_eventstore.vault.errors import VaultError
from perdure_eventstore.vault.frame import refuse_frames

_EVENTS, _INPUTS = 2_000, 16
"""Events at a time: without payloads they are small, and an input may be large."""


async def read_expected(log: Snapshot, runs: Sequence[UUID]) -> tuple[dict[UUID, Expected], dict[UUID, str]]:
    """By run, what must be there; and of the runs that cannot be read, why. Raises LogError."""
    found: dict[UUID, Expected] = {}
    unreadable: dict[UUID, str] = {}
    columns = ", ".join("null" if "payload" in name else f"e.{name}" for name in RecordedEvent._fields)
    statement = f"""select {columns} from "{log.schema}".events e
        where stream = any(%s) and type <> all(%s) order by stream, version"""
    async for page in log.pages(statement, (list(runs), list(KEEPING)), _EVENTS):
        for event in map(RecordedEvent._make, page):
            if event.stream in unreadable:
                continue
            try:
                found.setdefault(event.stream, Expected(event.stream)).take(decode(event), event.position)
            except UnreadableEvent as error:
                unreadable[event.stream] = str(error)
    for run in unreadable:
        del found[run]
    await _read_keys(log, {run: each for run, each in found.items() if each.is_keyed})
    return found, unreadable


async def _read_keys(log: Snapshot, runs: Mapping[UUID, Expected]) -> None:
    """A run's key lies in the payload of its first event; one that was erased, or has no key here, stays unknown."""
    columns = ", ".join(
        "coalesce(e.payload, p.payload)" if name == "payload" else f"e.{name}" for name in RecordedEvent._fields
    )
    statement = f"""select {columns} from "{log.schema}".events e left join "{log.schema}".payloads p
            on p.stream = e.stream and p.version = e.version
        where e.stream = any(%s) and e.version = 1"""
    unread = 0
    async for page in log.pages(statement, (list(runs),), _INPUTS):
        for event in map(RecordedEvent._make, page):
            try:
                (event,) = refuse_frames([event]) if log.vault is None else await log.vault.open([event])
                started = decode(event)
            except (VaultError, UnreadableEvent):
                unread += 1
                continue
            assert isinstance(started, RunStarted)
            runs[event.stream].say_key(started.key)
    if unread:
        log.remarks.append(f"the keys of {unread} runs are encrypted, and were not compared")

"""Starting a run: what may start it, and starting it without holding it, as a client does and a node for others."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from perdure_engine.arrivals import wrong_key
from perdure_engine.definitions.definition import Definition
from perdure_engine.identity import shard_of
from perdure_engine.run import advance
from perdure_engine.run.codec import encode
from perdure_engine.run.commands import StartRun
from perdure_engine.run.state import Occurrence, RunState
from perdure_engine.work import work_of
from perdure_eventstore.append import Append
from perdure_eventstore.appender import Appender
from perdure_eventstore.door import Json
from perdure_eventstore.errors import Conflict
from perdure_eventstore.events import NO_STREAM


class WrongStart(ValueError):
    """A run cannot be started this way; the message says what would be right."""


class StartOrder(NamedTuple):
    """A run that an event starts, or that was asked for; its waits count from position ``armed_at``."""

    run: UUID
    definition: Definition
    event: Occurrence
    armed_at: int
    key: str | None


def entry_of(definition: Definition, event: str | None) -> str | None:
    """The entry that a start without a published event means. Raises WrongStart."""
    entries = sorted(definition.entries)
    if event is None:
        if len(entries) > 1:
            raise WrongStart(f"{definition.workflow_id} has several entries: say event= one of {', '.join(entries)}")
        return entries[0] if entries else None
    if event not in entries:
        there = f"its entries are {', '.join(entries)}" if entries else "it has none: leave event= out"
        raise WrongStart(f"{event!r} is no entry of {definition.workflow_id}; {there}")
    return event


def start_command(definition: Definition, at: datetime, input_: Json, event: str | None, key: str | None) -> StartRun:
    """The command that starts a run without a published event. Raises WrongStart."""
    if why := wrong_key(key):
        raise WrongStart(why)
    entry = entry_of(definition, event)
    if definition.key is not None and key is None:
        raise WrongStart(f"{definition.workflow_id} keeps one open run a key: say key=")
    return StartRun(at=at, input=input_, event=entry, key=key)


def key_is_open(workflow_id: str, key: str | None) -> str:
    """The sentence for a start whose key an open run has."""
    return f"a run of {workflow_id} with the key {key!r} is open; publish an event to it"


def start_append(state: RunState, command: StartRun, armed_at: int | None = None) -> Append:
    """What records the start and what follows from it; the shard's owner is told to go on."""
    events, state = advance(state, command)
    work = work_of(state.run_id, events, armed_at, parked=state.is_parked, definition=state.definition)
    work["inbox"] = [{"run": state.run_id, "shard": shard_of(state.run_id), "kind": "started", "event": None}]
    return Append(state.run_id, NO_STREAM, [encode(event, b"{}") for event in events], work, announce=True)


async def append_start(appender: Appender, state: RunState, command: StartRun, armed_at: int | None = None) -> bool:
    """Record the start. False: it was there already."""
    try:
        await appender.append(start_append(state, command, armed_at))
    except Conflict:
        return False
    return True

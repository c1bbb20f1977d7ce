"""What a caller's own transaction takes: one call of an SQL function, which stages what is recorded at its COMMIT.

A call is the same for every driver: its arguments are texts, and the statement casts them.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple
from uuid import UUID

import orjson

from perdure_engine.facts import EventPublished
from perdure_engine.run.commands import StartRun
from perdure_engine.run.state import RunState
from perdure_engine.starting import start_append
from perdure_eventstore.errors import SchemaMissing

Command = Literal["cancel", "pause", "resume"]
"""What may be asked of a run, here and in SQL."""


class CallRefused(ValueError):
    """What the SQL functions refuse; the message is their sentence."""


class Call(NamedTuple):
    """A call of one of the schema's functions. Each argument is its type and its value as text."""

    function: str
    arguments: tuple[tuple[str, str | None], ...]

    def sql(self, schema: str, placeholder: Callable[[int], str]) -> str:
        """The statement; ``placeholder`` says how the driver writes the argument at an index."""
        casts = [f"cast(cast({placeholder(i)} as text) as {type_})" for i, (type_, _) in enumerate(self.arguments)]
        return f'select "{schema}".{self.function}({", ".join(casts)})'

    @property
    def values(self) -> list[str | None]:
        """The arguments, as texts."""
        return [value for _, value in self.arguments]


def publish_call(event: EventPublished, event_id: UUID) -> Call:
    """Publish ``event`` under ``event_id``."""
    return Call(
        "publish",
        (
            ("text", event.name),
            ("json", event.payload.text.decode()),
            ("text", event.key),
            ("uuid", str(event_id)),
            ("uuid", None if event.run is None else str(event.run)),
        ),
    )


def start_call(state: RunState, command: StartRun) -> Call:
    """Start a run, whose first decision is made here and now."""
    append = start_append(state, command)
    events = [
        {
            "type": event.type,
            "schema_version": event.schema_version,
            "data": event.data.decode(),
            "metadata": event.metadata.decode(),
            "payload": None if event.payload is None else event.payload.decode(),
        }
        for event in append.events
    ]
    return Call("stage", (("uuid", str(append.stream)), ("json", _json(events)), ("json", _json(append.companion))))


def command_call(run: UUID, command: Command, reason: str) -> Call:
    """Ask ``command`` of ``run``."""
    return Call("command", (("uuid", str(run)), ("text", command), ("text", reason)))


def refusal(sqlstate: str | None, message: str, schema: str) -> Exception | None:
    """What a database error in a call means; None for one that is not Perdure's to explain."""
    if sqlstate == "PD020":
        return CallRefused(message)
    if sqlstate in ("3F000", "42883"):
        return SchemaMissing(
            f"the database of this connection has no schema {schema!r} of this version of Perdure's: hand in a "
            "connection to the app's own database, or run `perdure migrate` on this one"
        )
    return None


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()

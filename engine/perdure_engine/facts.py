"""The events outside runs: published events, what they met, and definitions."""

from typing import Any, Literal
from uuid import UUID

import msgspec

from perdure_eventstore.door import NULL, Json
from perdure_eventstore.events import NewEvent, RecordedEvent

_encode = msgspec.json.Encoder().encode


class _Fact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A fact whose payload, if it has one, is its field ``payload``."""


class EventPublished(_Fact, frozen=True, kw_only=True):
    """Somebody published an event; its id is its stream. ``run`` narrows it to one run."""

    name: str
    key: str | None = None
    run: UUID | None = None
    payload: Json = NULL


class StartRequested(_Fact, frozen=True, kw_only=True):
    """Somebody asked in SQL for a run, whose input is the payload. Its stream is computed from ``run``."""

    workflow_id: str
    run: UUID
    event: str | None = None
    key: str | None = None
    payload: Json = NULL


class Match(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a published event did to one workflow."""

    workflow_id: str
    outcome: Literal["started", "delivered", "ignored"]
    run: UUID | None = None
    reason: str = ""


class EventRouted(_Fact, frozen=True, kw_only=True):
    """A published event was matched against every definition and every wait; nothing was forgotten if this is empty.

    After a ``StartRequested`` it says what came of the request.
    """

    matches: tuple[Match, ...] = ()
    reason: str = ""
    """Why nothing matched."""


class DefinitionRegistered(_Fact, frozen=True, kw_only=True):
    """Version ``number`` of a workflow; its document is the payload."""

    workflow_id: str
    number: int
    digest: str
    payload: Json = NULL


class DefinitionRetired(_Fact, frozen=True, kw_only=True):
    """The workflow starts no new runs from here on; those under way go on."""

    workflow_id: str
    number: int


Fact = EventPublished | StartRequested | EventRouted | DefinitionRegistered | DefinitionRetired


FACT_TYPES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (EventPublished, StartRequested, EventRouted, DefinitionRegistered, DefinitionRetired)
}
_DECODERS = {name: msgspec.json.Decoder(kind).decode for name, kind in FACT_TYPES.items()}


def encode_fact(fact: Fact, metadata: bytes = b"{}", id_: UUID | None = None) -> NewEvent:
    """``fact`` as an event to append."""
    payload = getattr(fact, "payload", None)
    bare = fact if payload is None else msgspec.structs.replace(fact, payload=NULL)
    text = None if payload is None else b'{"payload":' + payload.text + b"}"
    return NewEvent(type(fact).__name__, _encode(bare), text, metadata, id=id_)


def decode_fact(recorded: RecordedEvent) -> Any:
    """The fact that was recorded. Raises KeyError for an event that is not one of these."""
    fact = _DECODERS[recorded.type](recorded.data)
    if recorded.payload is None:
        return fact
    return msgspec.structs.replace(fact, payload=Json(recorded.payload[len(b'{"payload":') : -1]))

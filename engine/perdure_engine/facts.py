"""The events outside runs: published events, what they met, and definitions."""

from typing import Any, ClassVar, Literal, get_args
from uuid import UUID

import msgspec

from perdure_engine.event_codec import Codecs, PayloadText
from perdure_eventstore.door import NULL, Json
from perdure_eventstore.events import NewEvent, RecordedEvent


class _Fact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A fact whose payload, if it has one, is its field ``payload``; see ``run.events`` for its version."""

    SCHEMA_VERSION: ClassVar[int] = 1


class EventPublished(_Fact, frozen=True, kw_only=True):
    """Somebody published an event; its id is its stream. ``run`` narrows it to one run."""

    SCHEMA_VERSION: ClassVar[int] = 2

    name: str
    key: PayloadText = None
    run: UUID | None = None
    payload: Json = NULL


class StartRequested(_Fact, frozen=True, kw_only=True):
    """Somebody asked in SQL for a run, whose input is the payload. Its stream is computed from ``run``."""

    workflow_id: str
    run: UUID
    event: str | None = None
    key: PayloadText = None
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

_CODECS = Codecs(get_args(Fact))

FACT_TYPES: dict[str, type[Any]] = _CODECS.types
"""Every one of these event types by its name in the log."""


def encode_fact(fact: Fact, metadata: bytes = b"{}", id_: UUID | None = None) -> NewEvent:
    """``fact`` as an event to append."""
    return _CODECS.encode(fact, metadata, id_)


def decode_fact(recorded: RecordedEvent) -> Any:
    """The fact that was recorded, old versions as today's. Raises UnreadableEvent for what is none of these."""
    return _CODECS.decode(recorded)

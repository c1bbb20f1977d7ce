"""Kinds of stream, by the types of the events they hold."""

from typing import Literal, get_args

from perdure_engine.facts import (
    FACT_TYPES,
    DefinitionRegistered,
    DefinitionRetired,
    EventPublished,
    EventRouted,
    ScheduleFact,
    StartRequested,
)
from perdure_engine.run.codec import EVENT_TYPES

Kind = Literal["run", "event", "definition", "schedule"]
"""The history of a run; a published event or a request, and what it met; the versions of a workflow; a schedule."""

_TYPES: dict[Kind, frozenset[str]] = {
    "run": frozenset(EVENT_TYPES),
    "event": frozenset({EventPublished.__name__, StartRequested.__name__, EventRouted.__name__}),
    "definition": frozenset({DefinitionRegistered.__name__, DefinitionRetired.__name__}),
    "schedule": frozenset(kind.__name__ for kind in get_args(ScheduleFact)),
}
_KINDS: dict[str, Kind] = {type_: kind for kind, types in _TYPES.items() for type_ in types}
assert _KINDS.keys() == {*EVENT_TYPES, *FACT_TYPES}, "an event type has no kind of stream"


def types_of(kind: Kind) -> frozenset[str]:
    """The event types of a kind of stream. Raises ValueError for one there is not."""
    if kind not in _TYPES:
        raise ValueError(f"there is no kind of stream {kind!r}; there are {', '.join(_TYPES)}")
    return _TYPES[kind]


def kind_of(type_: str) -> Kind | None:
    """The kind of stream that holds events of this type; None for what is not the engine's."""
    return _KINDS.get(type_)

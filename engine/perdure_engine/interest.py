"""Which events a listener wants, by name and kind of stream; and an event as it gets it.

A published event has the name it was published under (``data_ready``), one of the engine's its type in snake case
(``task_completed``, ``run_failed``).
"""

import re
from collections.abc import Iterable
from datetime import datetime
from functools import cached_property
from typing import Any, Self
from uuid import UUID

import msgspec
import orjson

from perdure_engine.facts import FACT_TYPES, EventPublished, decode_fact
from perdure_engine.kinds import Kind, kind_of, types_of
from perdure_engine.run.codec import EVENT_TYPES, decode
from perdure_eventstore.door import Json
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.keeper import KEEPING


class Event:
    """An event as a listener gets it. Reading is lazy: what is not looked at is not decoded."""

    def __init__(self, name: str, recorded: RecordedEvent) -> None:
        self.name = name
        self.recorded = recorded

    @property
    def position(self) -> int:
        """Its place in the log."""
        return self.recorded.position

    @property
    def id(self) -> UUID:
        """Its id: for a published event the one ``publish`` returned."""
        return self.recorded.id

    @property
    def recorded_at(self) -> datetime:
        """When it was recorded, by the database's clock."""
        return self.recorded.recorded_at

    @property
    def run_id(self) -> UUID | None:
        """The run it is a part of; None for a published event or a definition, and for what was erased or archived."""
        return self.recorded.stream if kind_of(self.recorded.type) == "run" else None

    @cached_property
    def data(self) -> dict[str, Any]:
        """The engine's facts about it: ``task_id``, ``attempt``, …"""
        found: dict[str, Any] = orjson.loads(self.recorded.data)
        return found

    @cached_property
    def payload(self) -> Any:
        """What the user gave or got: the payload of a published event, ``{"output": …}`` of a completed task."""
        if self.recorded.payload is None:
            return None
        if self.recorded.type == "EventPublished":
            return self._decoded.payload.value
        return Json(self.recorded.payload).value

    @property
    def key(self) -> str | None:
        """The correlation key: of a published event, and of a run's event that has one."""
        if self.recorded.type in ("EventPublished", "RunStarted", "EventLatched"):
            found: str | None = self._decoded.key
            return found
        return None

    @cached_property
    def _decoded(self) -> Any:
        return decode_fact(self.recorded) if self.recorded.type in FACT_TYPES else decode(self.recorded)

    def __repr__(self) -> str:
        return f"Event({self.name}, position {self.position})"


def snake_case(type_: str) -> str:
    """The name by which a listener asks for one of the engine's event types."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type_).lower()


_BY_NAME = {snake_case(type_): type_ for type_ in (*EVENT_TYPES, *FACT_TYPES, *KEEPING)}


class Interest(msgspec.Struct, frozen=True):
    """Which events a listener wants: by name, by kind of stream, or all of them. Made by ``of``."""

    names: frozenset[str]
    kind: Kind | None = None

    @classmethod
    def of(cls, names: Iterable[str] = (), kind: Kind | None = None) -> Self:
        """Those of these names (none: all), in streams of this kind. Raises ValueError if that is nothing."""
        interest = cls(frozenset(names), kind)
        for name in sorted(interest.names):
            if kind is not None and _type_of(name) not in types_of(kind):
                raise ValueError(f"{name} is no event in streams of kind {kind!r}; leave one of them out")
        if kind is not None:
            types_of(kind)
        return interest

    @property
    def types(self) -> list[str] | None:
        """The log's event types to read for it; None for all."""
        if self.names:
            return sorted({_type_of(name) for name in self.names})
        return None if self.kind is None else sorted(types_of(self.kind))

    def match(self, recorded: RecordedEvent) -> Event | None:
        """The event, one of ``types``, as the listener gets it, if it wants it."""
        name = snake_case(recorded.type)
        if recorded.type == "EventPublished":
            published: EventPublished = decode_fact(recorded)
            name = published.name
        return Event(name, recorded) if not self.names or name in self.names else None


def _type_of(name: str) -> str:
    return _BY_NAME.get(name, "EventPublished")

"""The event manager's listening side: functions that are called for events in the log.

An event has a name: a published one its own (``data_ready``), one of the engine's its type in snake case
(``task_completed``, ``run_failed``). In-process listeners hear what comes while they listen. A durable subscription
has a name and a checkpoint in the database: it hears everything from where it stopped, at least once, in order.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from functools import cached_property, partial
from typing import Any
from uuid import UUID

import msgspec
import orjson
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_engine.duties import patiently
from perdure_engine.facts import FACT_TYPES, EventPublished, decode_fact
from perdure_engine.run.codec import EVENT_TYPES, decode
from perdure_eventstore.door import Json
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.feed import Feed
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

log = structlog.get_logger(__name__)

_BATCH = 500
_CHECKPOINT_EVERY = 10_000
"""Positions: where a subscription's events are rare, a restart reads no more than that for nothing."""
_MOST_BACKOFF = 30.0


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
        """The run it is a part of; None for a published event or a definition."""
        return None if self.recorded.type in FACT_TYPES else self.recorded.stream

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


Listener = Callable[[Event], Awaitable[None] | None]
Hear = Callable[[Event], Awaitable[None]]


def snake_case(type_: str) -> str:
    """The name by which a listener asks for one of the engine's event types."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type_).lower()


_BY_NAME = {snake_case(type_): type_ for type_ in (*EVENT_TYPES, *FACT_TYPES)}


class Interest(msgspec.Struct, frozen=True):
    """Which events a listener wants: by name, or all of them."""

    names: frozenset[str]

    @property
    def types(self) -> list[str] | None:
        """The log's event types to read for it; None for all."""
        if not self.names:
            return None
        return sorted({_BY_NAME.get(name, "EventPublished") for name in self.names})

    def match(self, recorded: RecordedEvent) -> Event | None:
        """The event as the listener gets it, if it wants it."""
        name = snake_case(recorded.type)
        if recorded.type == "EventPublished":
            published: EventPublished = decode_fact(recorded)
            name = published.name
        return Event(name, recorded) if not self.names or name in self.names else None


class EventManager:
    """Calls a listener as the settled log grows; ``feed`` is run by whoever made it."""

    def __init__(self, engine: AsyncEngine, feed: Feed, schema: str) -> None:
        self._session, self._feed = Session(engine), feed
        self._reader = Reader(self._session, schema)
        self._place: _Place | None = None
        self._load = f'select position from "{schema}".subscriptions where name = %s'
        # Another process may follow under the same name, and be further: a checkpoint never goes back.
        self._save = f"""insert into "{schema}".subscriptions (name, position) values (%s, %s)
            on conflict (name) do update set position = excluded.position
            where subscriptions.position < excluded.position"""

    async def listen(self, names: Iterable[str], listener: Listener) -> None:
        """Call ``listener`` for what comes from now on, for ever; cancel to end. Its errors are logged, not retried."""

        async def begin() -> None:
            self._place = _Place(None, await self._feed.beyond(-1))

        async def once(event: Event) -> None:
            try:
                await _call(listener, event)
            except Exception:
                log.exception("a listener failed", event_name=event.name, position=event.position)

        await self._follow(begin, Interest(frozenset(names)), once)

    async def subscribe(self, name: str, names: Iterable[str], listener: Listener, *, from_start: bool) -> None:
        """Call ``listener`` for everything after the checkpoint of ``name``, for ever; cancel to end.

        A new subscription begins with the log's first event if ``from_start``, and else with what comes from now on.
        An event whose listener raises is tried again until it does not, and what follows it waits.
        """

        async def begin() -> None:
            rows = await self._session.fetch(self._load, (name,))
            position = rows[0][0] if rows else 0 if from_start else await self._feed.beyond(-1)
            if not rows:
                await self._session.fetch(self._save, (name, position))
            self._place = _Place(name, position)

        async def until_done(event: Event) -> None:
            backoff = 0.1
            while True:
                try:
                    return await _call(listener, event)
                except Exception:
                    log.exception("a subscriber failed", subscription=name, position=event.position, retry_in=backoff)
                    await asyncio.sleep(backoff)
                    backoff = min(backoff * 2, _MOST_BACKOFF)

        await self._follow(begin, Interest(frozenset(names)), until_done)

    async def _follow(self, begin: Callable[[], Awaitable[None]], interest: Interest, hear: Hear) -> None:
        """Hear for ever, and ride out a log that cannot be reached. Called again, it goes on where it stopped."""
        try:
            if self._place is None:
                await patiently(begin)
            while True:
                await patiently(partial(self._hear, interest, hear))
        finally:
            await self._session.close()

    async def _hear(self, interest: Interest, hear: Hear) -> None:
        """Hear one batch. Raises LogError; what was heard before that is not heard again."""
        place = self._place
        assert place is not None
        await self._keep(place)
        mark = await self._feed.beyond(place.position)
        events = await self._reader.span(place.position, mark, types=interest.types, limit=_BATCH)
        for recorded in events:
            if (event := interest.match(recorded)) is not None:
                await hear(event)
                place.heard = recorded.position
            place.position = recorded.position
            await self._keep(place)
        if len(events) < _BATCH:
            place.position = mark

    async def _keep(self, place: "_Place") -> None:
        """Save a durable place, if something was heard there or much was passed over."""
        if place.name is None or (place.heard <= place.saved and place.position - place.saved < _CHECKPOINT_EVERY):
            return
        await self._session.fetch(self._save, (place.name, place.position))
        place.saved = place.position


class _Place:
    """How far a listener is; with a name it is kept in the database."""

    def __init__(self, name: str | None, position: int) -> None:
        self.name, self.position, self.saved = name, position, position
        self.heard = position
        """The last event's that the listener was called for."""


async def _call(listener: Listener, event: Event) -> None:
    answer = listener(event)
    if answer is not None:
        await answer

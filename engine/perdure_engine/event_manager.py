"""The event manager's listening side: functions that are called for events in the log, one at a time.

In-process listeners hear what comes while they listen. A durable subscription has a name and a checkpoint in the
database: it hears everything from where it stopped, at least once, in order. Consumers, which hear in batches and
exactly once, are in ``consumers``.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_engine.interest import Event, Interest
from perdure_eventstore.errors import SubscriptionRefused
from perdure_eventstore.feed import Feed
from perdure_eventstore.patience import patiently
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session
from perdure_eventstore.terms import Start, start_position

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

log = structlog.get_logger(__name__)

_BATCH = 500
_CHECKPOINT_EVERY = 10_000
"""Positions: where a subscription's events are rare, a restart reads no more than that for nothing."""
_FIRST_RETRY, _LAST_RETRY = 0.1, 30.0


Listener = Callable[[Event], Awaitable[None] | None]
Hear = Callable[[Event], Awaitable[None]]


class EventManager:
    """Calls a listener as the settled log grows; ``feed`` is run by whoever made it."""

    def __init__(self, engine: AsyncEngine, feed: Feed, schema: str, vault: "Vault | None" = None) -> None:
        self._session, self._feed = Session(engine), feed
        self._reader = Reader(self._session, schema, vault)
        self._place: _Place | None = None
        self._load = f'select position, parts from "{schema}".subscriptions where name = %s order by part'
        # Another process may follow under the same name, and be further: a checkpoint never goes back.
        self._save = f"""insert into "{schema}".subscriptions (name, position) values (%s, %s)
            on conflict (name, part) do update set position = excluded.position
            where subscriptions.position < excluded.position"""

    async def listen(self, interest: Interest, listener: Listener) -> None:
        """Call ``listener`` for what comes from now on, for ever; cancel to end. Its errors are logged, not retried."""

        async def begin() -> None:
            self._place = _Place(None, await self._feed.beyond(-1))

        async def once(event: Event) -> None:
            try:
                await _call(listener, event)
            except Exception:
                log.exception("a listener failed", event_name=event.name, position=event.position)

        await self._follow(begin, interest, once)

    async def subscribe(self, name: str, interest: Interest, listener: Listener, *, start: Start) -> None:
        """Call ``listener`` for everything after the checkpoint of ``name``, for ever; cancel to end.

        ``start`` is where a new subscription begins. An event whose listener raises is tried again until it does not,
        and what follows it waits. Raises SubscriptionRefused for one that is divided into parts.
        """

        async def begin() -> None:
            rows = await self._session.fetch(self._load, (name,))
            if rows and rows[0][1] > 1:
                raise SubscriptionRefused(
                    f"subscription {name!r} is divided into {rows[0][1]} parts, which only consumers read "
                    "(App.consume); choose another name"
                )
            position = rows[0][0] if rows else await start_position(start, self._feed)
            if not rows:
                await self._session.fetch(self._save, (name, position))
            self._place = _Place(name, position)

        async def until_done(event: Event) -> None:
            def told(error: BaseException, pause: float) -> None:
                log.error(
                    "a subscriber failed", subscription=name, position=event.position, retry_in=pause, exc_info=error
                )

            call = partial(_call, listener, event)
            await patiently(call, Exception, first=_FIRST_RETRY, most=_LAST_RETRY, told=told)

        await self._follow(begin, interest, until_done)

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

"""The face's listening side: functions of the application that are called for events in the log."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from perdure.client import Client
from perdure_engine.consumers import Consumer, DurableConsumer, durable_consumer
from perdure_engine.event_manager import EventManager, Listener
from perdure_engine.interest import Interest
from perdure_engine.kinds import Kind
from perdure_eventstore.errors import SubscriptionRefused
from perdure_eventstore.feed import Feed
from perdure_eventstore.subscription import Subscription
from perdure_eventstore.terms import Start, check_start

Work = Callable[[], Coroutine[Any, Any, None]]
Begin = Callable[[AsyncEngine, Feed], Work]


class Listening(ABC):
    """What ``App`` does for those who listen. It keeps them, and begins with them whenever it connects."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._listening: list[Begin] = []
        self._consumers: dict[str, DurableConsumer] = {}
        self._hears = False

    @property
    @abstractmethod
    def client(self) -> Client:
        """The connected client. Raises NotConnected."""

    @abstractmethod
    def _follow_log(self) -> Feed:
        """The feed of the settled log, running."""

    @abstractmethod
    def _spawn(self, work: Work) -> None:
        """Do ``work`` for as long as the app is connected."""

    def on(self, *names: str, kind: Kind | None = None) -> Callable[[Listener], Listener]:
        """Call the decorated function for events of these names (none: all) while the app is connected.

        Published events go by their own name, the engine's by their type: ``task_completed``, ``run_failed``, ….
        ``kind`` narrows it to streams of one kind: "run", "event" (published) or "definition".
        """
        interest = Interest.of(names, kind)

        def add(listener: Listener) -> Listener:
            def begin(engine: AsyncEngine, feed: Feed) -> Work:
                manager = EventManager(engine, feed, self.schema, self.client.vault)
                return lambda: manager.listen(interest, listener)

            self._add(begin)
            return listener

        return add

    def subscribe(
        self, name: str, *names: str, kind: Kind | None = None, from_start: bool = False, start: Start = "now"
    ) -> Callable[[Listener], Listener]:
        """A durable ``on``: ``name`` has a checkpoint in the database, so nothing is missed, and events come in order.

        At least once: after a crash the last event may come again. A new subscription begins at ``start``: "now", the
        log's "beginning" (``from_start`` says the same), or behind a position.
        """
        interest, first = Interest.of(names, kind), "beginning" if from_start else start
        check_start(first)

        def add(listener: Listener) -> Listener:
            def begin(engine: AsyncEngine, feed: Feed) -> Work:
                manager = EventManager(engine, feed, self.schema, self.client.vault)
                return lambda: manager.subscribe(name, interest, listener, start=first)

            self._add(begin)
            return listener

        return add

    def consume(
        self,
        name: str,
        *names: str,
        kind: Kind | None = None,
        batch: int = 500,
        parts: int = 1,
        start: Start = "now",
        consumers: int = 1,
    ) -> Callable[[Consumer], Consumer]:
        """Call the decorated async function with lists of events, at most ``batch``; each event counts exactly once.

        It writes through a parameter annotated with SQLAlchemy's AsyncConnection or AsyncSession, and what it writes
        commits with the checkpoint of ``name``; it may not commit by itself. When it raises, nothing of the batch was
        done, and the batch comes again, for ever. ``parts`` divides the subscription by stream, so that as many may
        work at once, in any number of processes; a stream's events come in order. ``consumers`` work in this process.

        All who consume under one name use the same names, kind and parts. Raises ValueError.
        """
        interest = Interest.of(names, kind)
        if type(consumers) is not int or consumers < 1:
            raise ValueError(f"consumers are a whole number from 1, not {consumers!r:.60}")
        if name in self._consumers:
            raise ValueError(f"this app consumes {name!r} already; say consumers= for several, or choose another name")

        def add(function: Consumer) -> Consumer:
            consumer = durable_consumer(name, interest, function, batch=batch, parts=parts, start=start)
            self._consumers[name] = consumer

            def begin(engine: AsyncEngine, feed: Feed) -> Work:
                subscription = Subscription(engine, feed, consumer.terms, self.schema, self.client.vault)
                return lambda: subscription.run(consumer)

            for _ in range(consumers):
                self._add(begin)
            return function

        return add

    async def repartition(self, name: str) -> None:
        """Divide the subscription ``name`` anew, into as many parts as this app's consumer of it says.

        Always possible into a multiple, and else once its parts have read everything. Consumers that still run with
        the old number stop. Raises SubscriptionRefused, LogError.
        """
        if name not in self._consumers:
            raise SubscriptionRefused(f"this app does not consume {name!r}; it consumes {', '.join(self._consumers)}")
        terms = self._consumers[name].terms
        await Subscription(self.client.engine, self._follow_log(), terms, self.schema).repartition()

    def _begin_listening(self) -> None:
        """The app has connected."""
        self._hears = True
        for begin in self._listening:
            self._begin(begin)

    def _end_listening(self) -> None:
        """It no longer is; whatever was spawned is ended elsewhere."""
        self._hears = False

    def _add(self, begin: Begin) -> None:
        self._listening.append(begin)
        if self._hears:
            self._begin(begin)

    def _begin(self, begin: Begin) -> None:
        self._spawn(begin(self.client.engine, self._follow_log()))

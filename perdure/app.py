"""``perdure.App``: everything a Python application needs to embed Perdure."""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from perdure import database
from perdure.blocking import BlockingClient
from perdure.client import Client, Published, Run, as_id, as_json
from perdure.errors import NotConnected
from perdure.settings import Settings
from perdure.tasks import register_builtins
from perdure_engine.background import Background, endlessly
from perdure_engine.definition_watch import DefinitionWatch
from perdure_engine.definitions.definition import Retry
from perdure_engine.event_manager import EventManager, Listener
from perdure_engine.facts import EventPublished
from perdure_engine.handlers import task_type
from perdure_engine.node import Node
from perdure_engine.registry import Registered, Registration
from perdure_engine.task_types import TaskTypes
from perdure_engine.tenure import Settings as NodeSettings
from perdure_eventstore.door import Json
from perdure_eventstore.feed import Feed
from perdure_projections.builtin import BUILTIN
from perdure_projections.runner import ProjectionRunner

Handler = TypeVar("Handler", bound=Callable[..., Any])
Lifespan = Callable[["App"], AbstractAsyncContextManager[Mapping[str, Any] | None]]


class App:
    """An application's Perdure: task types, and a database once it is connected.

    ``async with app:`` connects a client, which publishes, starts and asks. ``async with app.node():`` also executes.
    """

    def __init__(
        self,
        database_name: str | None = None,
        *,
        schema: str | None = None,
        lifespan: Lifespan | None = None,
        settings: Settings | None = None,
    ) -> None:
        """No I/O happens here.

        ``database_name`` is ``"embedded:FOLDER"`` or ``"postgresql://…"``; without it, PERDURE_DATABASE_URL is.
        ``lifespan`` is entered when the app connects, as in Starlette: a function from the app to an async context
        manager, whose mapping becomes ``app.resources``. Raises DatabaseNotNamed, SettingsRefused.
        """
        self.settings = settings or Settings.load()
        self.database_name = database.check_name(database_name or self.settings.database_url)
        self.schema = schema or self.settings.schema_name
        self.types = TaskTypes()
        self.resources: Mapping[str, Any] = {}
        self._lifespan = lifespan
        self._closing = AsyncExitStack()
        self._background = Background()
        self._feed: Feed | None = None
        self._client: Client | None = None
        self._listening: list[Callable[[EventManager], Coroutine[Any, Any, None]]] = []
        folder = database.embedded_folder(self.database_name)
        self._close_tasks = register_builtins(
            self.types,
            self.settings.tasks(folder),
            schema=self.schema,
            own_url=self.database_name if folder is None else None,
        )

    def task(
        self,
        name: str | None = None,
        *,
        retry: Retry | None = None,
        timeout: float | None = None,
        replace: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Make the decorated function the handler of a task type (named as the function, unless ``name`` is given).

        ``timeout`` is seconds an attempt; ``replace`` is needed to take the place of another handler. May be used
        while a node runs. Raises TaskTypeRefused.
        """

        def add(handler: Handler) -> Handler:
            made = task_type(name or handler.__name__, handler, retry=retry, timeout=timeout)
            self.types.add(made, replace=replace)
            if self._client and self._client.node and self._client.node.tenure:
                self._client.node.tenure.holder.types_changed()
            return handler

        return add

    async def __aenter__(self) -> Self:
        await self._closing.enter_async_context(self._connected())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._closing.aclose()

    @asynccontextmanager
    async def node(self, *, views: bool = True) -> AsyncIterator[Self]:
        """Connect, and execute runs until the block ends; then stop cleanly.

        ``views`` keeps the projections up to date in this process too. Raises LogError, EmbeddedPostgresError.
        """
        async with AsyncExitStack() as stack:
            if self._client is None:
                await stack.enter_async_context(self)
            client, feed = self.client, self._follow_log()
            node = Node(client.engine, self.types, self._node_settings(), feed)
            background = await stack.enter_async_context(Background())
            background.spawn(endlessly(DefinitionWatch(client.registry, client.reader, feed).run))
            if views:
                background.spawn(endlessly(ProjectionRunner(client.engine, feed, self.schema, BUILTIN).run))
            async with node.running():
                client.node = node
                try:
                    yield self
                finally:
                    client.node = None

    def blocking(self) -> BlockingClient:
        """A client for synchronous code: ``with app.blocking() as client``. It connects on first use."""
        return BlockingClient(self)

    @property
    def client(self) -> Client:
        """The connected client. Raises NotConnected."""
        if self._client is None:
            raise NotConnected
        return self._client

    @property
    def database(self) -> AsyncEngine:
        """SQLAlchemy's engine underneath. Raises NotConnected."""
        return self.client.engine

    async def register(self, document: object, *, allow_unknown_types: bool = False) -> Registered:
        """Make a definition (a dict, as from JSON) its workflow's newest version; the same again changes nothing.

        Raises DefinitionRefused with every fault, each with its JSON pointer.
        """
        return await self.client.register(document, allow_unknown_types=allow_unknown_types)

    async def retire(self, workflow_id: str) -> None:
        """Start no more runs of a workflow; those under way go on. Raises UnknownWorkflow."""
        await self.client.registry.retire(workflow_id)

    async def definitions(self, workflow_id: str | None = None) -> list[Registration]:
        """Every registered version, of one workflow or all, oldest first."""
        return await self.client.registry.versions(workflow_id)

    async def definition(self, workflow_id: str) -> dict[str, Any]:
        """The newest active definition, as registered. Raises UnknownWorkflow."""
        active = await self.client.registry.active(workflow_id)
        document: dict[str, Any] = Json((await self.client.registry.document(active.digest)).encode()).value
        return document

    async def publish(
        self,
        event: str,
        payload: Any = None,
        *,
        key: str | None = None,
        event_id: UUID | None = None,
        run: UUID | None = None,
    ) -> Published:
        """Record an event; it is on the disk when this returns, and a node routes it to the runs it concerns.

        ``payload`` is plain JSON data (or ``perdure.Json`` text). With the ``event_id`` of an earlier event and equal
        content, that one is returned. ``run`` narrows it to one run. Raises PayloadRefused, StartRefused, LogError.
        """
        fact = EventPublished(name=event, key=key, run=run, payload=as_json(payload))
        return await self.client.publish(fact, event_id)

    async def start(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        event: str | None = None,
        key: str | None = None,
        run_id: UUID | None = None,
    ) -> Run:
        """Start a run of the newest active version; nothing is published.

        ``event`` is the entry it starts with, and may be left out where there is at most one. With the ``run_id`` of
        an earlier run and equal content, that one is returned. Raises UnknownWorkflow, StartRefused, LogError.
        """
        return await self.client.start(workflow_id, as_json({} if input is None else input), event, key, run_id)

    def run(self, run_id: UUID) -> Run:
        """A handle on a run; nothing is asked of the database yet."""
        as_id("run_id", run_id)
        return Run(self.client, run_id)

    def on(self, *names: str) -> Callable[[Listener], Listener]:
        """Call the decorated function for events of these names (none: all) while the app is connected.

        Published events go by their own name, the engine's by their type: ``task_completed``, ``run_failed``, ….
        """

        def add(listener: Listener) -> Listener:
            self._add_listener(lambda manager: manager.listen(names, listener))
            return listener

        return add

    def subscribe(self, name: str, *names: str, from_start: bool = False) -> Callable[[Listener], Listener]:
        """A durable ``on``: ``name`` has a checkpoint in the database, so nothing is missed, and events come in order.

        At least once: after a crash the last event may come again. ``from_start`` begins a new subscription with the
        log's first event.
        """

        def add(listener: Listener) -> Listener:
            self._add_listener(lambda manager: manager.subscribe(name, names, listener, from_start=from_start))
            return listener

        return add

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(database.opened(self.database_name, self.schema))
            self._background = await stack.enter_async_context(Background())
            self._client = Client(engine, self.types, self.schema, self.settings.patience)
            stack.callback(self._disconnect)
            stack.push_async_callback(self._close_tasks)
            self._background.spawn(self._client.run())
            if self._lifespan is not None:
                resources = await stack.enter_async_context(self._lifespan(self))
                self.resources = resources or {}
            for begin in self._listening:
                self._listen(begin)
            yield

    def _disconnect(self) -> None:
        self._client = self._feed = None
        self.resources = {}

    def _follow_log(self) -> Feed:
        """The feed of the settled log, running."""
        if self._feed is None:
            self._feed = Feed(self.client.engine, self.schema, self.settings.poll)
            self._background.spawn(endlessly(self._feed.run))
        return self._feed

    def _add_listener(self, begin: Callable[[EventManager], Coroutine[Any, Any, None]]) -> None:
        self._listening.append(begin)
        self._listen(begin)

    def _listen(self, begin: Callable[[EventManager], Coroutine[Any, Any, None]]) -> None:
        if self._client is not None:
            manager = EventManager(self._client.engine, self._follow_log(), self.schema)
            self._background.spawn(endlessly(lambda: begin(manager)))

    def _node_settings(self) -> NodeSettings:
        settings = self.settings
        return NodeSettings(
            self.schema, settings.concurrency, settings.lease, settings.poll, snapshot_every=settings.snapshot_every
        )

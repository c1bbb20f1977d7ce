"""``perdure.App``: everything a Python application needs to embed Perdure."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy.ext.asyncio import AsyncEngine

from perdure import database
from perdure.blocking import BlockingClient
from perdure.client import Client, Published, Run, as_json, check_event, check_reason, check_run_id
from perdure.encryption import opened_vault, refuse_in_the_clear
from perdure.errors import AppInUse, NotConnected
from perdure.listening import Listening, Work
from perdure.retention import archive
from perdure.scheduling import Scheduling
from perdure.settings import SCHEMA_NAME, Settings
from perdure.tasks.builtins import register_builtins
from perdure.within import AsyncWithin, execute_async
from perdure_engine.background import Background, endlessly
from perdure_engine.definition_watch import DefinitionWatch
from perdure_engine.definitions.definition import Delivery, Retry
from perdure_engine.doctor.doctor import Diagnosis
from perdure_engine.errors import TaskTypeRefused
from perdure_engine.facts import EventPublished
from perdure_engine.handlers import task_type
from perdure_engine.identity import new_id
from perdure_engine.node import Node
from perdure_engine.registry import Registered, Registration
from perdure_engine.staging import Command, command_call, publish_call
from perdure_engine.task_types import TaskTypes
from perdure_engine.tenure import Settings as NodeSettings
from perdure_eventstore.archive.moving import Moved
from perdure_eventstore.door import Json
from perdure_eventstore.feed import Feed
from perdure_eventstore.keeper import Erased
from perdure_projections.builtin import BUILTIN
from perdure_projections.runner import ProjectionRunner

Handler = TypeVar("Handler", bound=Callable[..., Any])
Lifespan = Callable[["App"], AbstractAsyncContextManager[Mapping[str, Any] | None]]


class App(Listening, Scheduling):
    """An application's Perdure: task types, and a database once it is connected.

    ``async with app:`` connects a client, which publishes, starts and asks, and may be entered several times at once,
    in one event loop; the last one out disconnects. ``async with app.node():`` also executes, once at a time: for a
    second node in the same process make a second App.
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
        manager, whose mapping becomes ``app.resources``. Raises DatabaseNotNamed, WrongUrl, SettingsRefused.
        """
        self.settings = settings or Settings.load()
        self.database_name = database.check_name(database_name or self.settings.database_url)
        if schema is not None and (len(schema) > 63 or not re.fullmatch(SCHEMA_NAME, schema)):
            raise ValueError(f"a schema's name is 1 to 63 characters without quotes, % and \\, not {schema!r:.60}")
        super().__init__(schema or self.settings.schema_name)
        self.types = TaskTypes()
        self.resources: Mapping[str, Any] = {}
        self._lifespan = lifespan
        self._closing = AsyncExitStack()
        self._entered = 0
        self._has_node = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._background = Background()
        self._feed: Feed | None = None
        self._client: Client | None = None
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
        heartbeat: float | None = None,
        delivery: Delivery | None = None,
        limit: int | None = None,
        rate: str | None = None,
        executor: Executor | Callable[[], Executor] | None = None,
        replace: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Make the decorated function the handler of a task type (named as the function, unless ``name`` is given).

        ``timeout`` is seconds an attempt; ``heartbeat`` the seconds within which it must call ``task.heartbeat()``.
        ``delivery="at_most_once"``: an attempt that failed, or whose node died, is never followed by another. What a
        definition says of its task goes before all of these. ``limit`` is how many a node executes at once,
        ``rate`` how many begin in a time over all nodes (``"10/s"``, ``"100/m"``): in no such time are there more.
        ``executor``, for a synchronous handler: one of ``concurrent.futures`` (a process pool, Dask's, Ray's), or a
        function that makes one and is called again if that breaks; without it such a handler runs in a thread.
        ``replace`` is needed to take another handler's place. May be used while a node runs. Raises TaskTypeRefused.
        """

        if callable(name):
            named = getattr(name, "__name__", "the function")
            raise TaskTypeRefused(f"@app.task has brackets, and above {named} there are none: write @app.task()")

        def add(handler: Handler) -> Handler:
            made = task_type(
                getattr(handler, "__name__", "") if name is None else name,
                handler,
                retry=retry,
                timeout=timeout,
                heartbeat=heartbeat,
                delivery=delivery,
                limit=limit,
                rate=rate,
                executor=executor,
            )
            self.types.add(made, replace=replace)
            if self._client and self._client.node and self._client.node.tenure:
                self._client.node.tenure.holder.placement.types_changed()
            return handler

        return add

    async def __aenter__(self) -> Self:
        async with self._gate():
            self._take_loop()
            try:
                if not self._entered:
                    await self._closing.enter_async_context(self._connected())
                self._entered += 1
            finally:
                self._leave_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._gate():
            self._entered -= 1
            try:
                if not self._entered:
                    await self._closing.aclose()
            finally:
                self._leave_loop()

    def _gate(self) -> asyncio.Lock:
        """Who enters waits for who leaves. An app may serve one event loop after another, a lock only one."""
        return self._gates.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    def _take_loop(self) -> None:
        loop = asyncio.get_running_loop()
        self._forget_closed_loop()
        if self._loop is not None and self._loop is not loop:
            raise AppInUse(
                "this app is connected in another event loop: make a second App for this one, or use app.blocking(), "
                "whose calls may come from any thread"
            )
        self._loop = loop

    def _forget_closed_loop(self) -> None:
        """Where nobody left the app before its loop was closed, what it had is gone with that."""
        if self._loop is not None and self._loop.is_closed():
            self._entered, self._has_node, self._closing = 0, False, AsyncExitStack()
            self._loop = self._client = self._feed = None

    def _leave_loop(self) -> None:
        if not self._entered:
            self._loop = None

    @asynccontextmanager
    async def node(self, *, views: bool = True) -> AsyncIterator[Self]:
        """Connect, and execute runs until the block ends; then stop cleanly. An app has one node at a time.

        ``views`` keeps the projections up to date in this process too. Raises AppInUse while the app's node is there,
        LogError, EmbeddedPostgresError, VaultError, KeyRefused.
        """
        self._forget_closed_loop()
        if self._has_node:
            raise AppInUse(
                "this app has a node already, and takes one at a time: for a second one make a second App with the "
                "same database, or start another process"
            )
        self._has_node = True
        async with AsyncExitStack() as stack:
            stack.callback(self._node_has_gone)
            await stack.enter_async_context(self)
            client, feed = self.client, self._follow_log()
            await client.check_key()
            node = Node(client.engine, self.types, self._node_settings(), feed, client.vault)
            background = await stack.enter_async_context(Background())
            background.spawn(endlessly(DefinitionWatch(client.registry, client.reader, feed).run))
            heads = self.settings.heads
            keeper = heads.keeper(client.engine, self.schema)
            background.spawn(endlessly(lambda: keeper.run(feed, heads.every)))
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
        connection: AsyncWithin | None = None,
    ) -> Published:
        """Record an event; it is on the disk when this returns, and a node routes it to the runs it concerns.

        ``payload`` is plain JSON data (or ``perdure.Json`` text). With the ``event_id`` of an earlier event and equal
        content, that one is returned. ``run`` narrows it to one run. With ``connection`` (see docs/transactions.md) it
        is recorded when the caller's transaction commits, and only then; the app need not be connected. Raises
        PayloadRefused, StartRefused, LogError; with ``connection`` also WrongConnection.
        """
        fact = EventPublished(name=event, key=key, run=run, payload=as_json(payload))
        if connection is None:
            return await self.client.publish(fact, event_id)
        refuse_in_the_clear(self.settings.encryption)
        check_event(fact, event_id)
        stream = event_id or new_id()
        await execute_async(connection, publish_call(fact, stream), self.schema)
        return Published(lambda: self.client, stream, None)

    async def start(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        event: str | None = None,
        key: str | None = None,
        run_id: UUID | None = None,
        connection: AsyncWithin | None = None,
    ) -> Run:
        """Start a run of the newest active version; nothing is published.

        ``event`` is the entry it starts with, and may be left out where there is at most one. With the ``run_id`` of
        an earlier run and equal content, that one is returned. With ``connection`` (see docs/transactions.md) the run
        is there once the caller's transaction commits. Raises UnknownWorkflow, StartRefused, LogError; with
        ``connection`` also WrongConnection.
        """
        given = as_json({} if input is None else input)
        if connection is None:
            return await self.client.start(workflow_id, given, event, key, run_id)
        refuse_in_the_clear(self.settings.encryption)
        run, call = await self.client.stage_start(workflow_id, given, event, key, run_id)
        if call is not None:
            await execute_async(connection, call, self.schema)
        return run

    async def cancel(self, run_id: UUID, reason: str = "", *, connection: AsyncWithin | None = None) -> None:
        """Ask that a run be stopped: what is under way is cancelled, and it ends ``cancelled``. It may take a moment.

        A run that has ended is left as it is. With ``connection`` it is asked when the caller's transaction commits;
        whether there is such a run is not checked then. Raises UnknownRun, StartRefused, LogError, WrongConnection.
        """
        await self._command("cancel", run_id, reason, connection)

    async def pause(self, run_id: UUID, reason: str = "", *, connection: AsyncWithin | None = None) -> None:
        """Ask that nothing of a run start until it is resumed. It may take a moment.

        Events still latch, timers wait, what is under way goes on, and so does the run's deadline. The rest is as for
        ``cancel``.
        """
        await self._command("pause", run_id, reason, connection)

    async def resume(self, run_id: UUID, reason: str = "", *, connection: AsyncWithin | None = None) -> None:
        """Ask that a paused run go on: what is scheduled starts, and what fell due meanwhile fires, once.

        The rest is as for ``cancel``.
        """
        await self._command("resume", run_id, reason, connection)

    async def _command(self, command: Command, run_id: UUID, reason: str, connection: AsyncWithin | None) -> None:
        check_run_id(run_id)
        if connection is None:
            await self.client.command(run_id, command, reason)
        else:
            await execute_async(connection, command_call(run_id, command, check_reason(reason)), self.schema)

    async def erase(self, run_id: UUID, *, reason: str = "", actor: str = "", archive: Path | None = None) -> Erased:
        """Take what an ended run was given and gave out of the log, for ever; or a published event, or a deleted
        schedule, by its id.

        Its key is destroyed, if it has one, and its payloads are removed; the events stay, and the chain goes on.
        ``reason`` and ``actor`` are recorded. One that was archived is erased in its file, which is ``archive`` if it
        was moved since. Broken off, call it again. Raises UnknownRun, ErasureRefused, LogError.
        """
        return await self.client.erase(run_id, reason, actor, archive)

    async def archive(
        self, folder: Path, older_than: timedelta, *, workflow: str | None = None, limit: int | None = None
    ) -> list[Moved]:
        """Move ended runs and routed events that nothing has happened to for ``older_than`` to files in ``folder``.

        ``workflow``: its runs alone; ``limit``: so many at most. Raises ArchiveRefused, LogError, OSError.
        """
        return await archive(self.client, folder, older_than, workflow=workflow, limit=limit)

    async def doctor(self, *, repair: bool = False) -> Diagnosis:
        """Compare the working set with the log, beside nodes at work; with ``repair`` rebuild what is wrong.

        Rebuilding holds up appends for a moment, and needs the rights of the schema's owner. Raises LogError.
        """
        return await self.client.doctor(repair=repair)

    def run(self, run_id: UUID) -> Run:
        """A handle on a run; nothing is asked of the database yet."""
        return Run(self.client, check_run_id(run_id))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(database.opened(self.database_name, self.schema))
            vault = await stack.enter_async_context(opened_vault(self.settings.encryption, engine, self.schema))
            self._background = await stack.enter_async_context(Background())
            self._client = Client(engine, self.types, self.schema, self.settings.patience, vault)
            stack.callback(self._disconnect)
            stack.push_async_callback(self._close_tasks)
            self._background.spawn(self._client.run())
            if self._lifespan is not None:
                resources = await stack.enter_async_context(self._lifespan(self))
                self.resources = resources or {}
            self._begin_listening()
            yield

    def _node_has_gone(self) -> None:
        self._has_node = False

    def _disconnect(self) -> None:
        self._end_listening()
        self._client = self._feed = None
        self.resources = {}

    def _follow_log(self) -> Feed:
        """The feed of the settled log, running."""
        if self._feed is None:
            self._feed = Feed(self.client.engine, self.schema, self.settings.poll)
            self._background.spawn(endlessly(self._feed.run))
        return self._feed

    def _spawn(self, work: Work) -> None:
        self._background.spawn(endlessly(work))

    def _node_settings(self) -> NodeSettings:
        settings = self.settings
        return NodeSettings(
            self.schema,
            settings.concurrency,
            settings.lease,
            settings.poll,
            settings.stop,
            snapshot_every=settings.snapshot_every,
        )

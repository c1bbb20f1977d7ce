"""The blocking face, for synchronous programs: an event loop in a thread of its own, asked through anyio's portal.

It connects when it is first used, and a forked child (a pre-forking web server's worker) connects anew for itself.
"""

import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar
from uuid import UUID

from anyio.from_thread import BlockingPortal, start_blocking_portal

from perdure.client import Client, Run, as_json, check_event, check_reason, check_run_id
from perdure.connected import connected
from perdure.encryption import refuse_in_the_clear
from perdure.scheduling import wanted
from perdure.within import Within, execute
from perdure_engine.doctor.doctor import Diagnosis
from perdure_engine.facts import CatchUp, EventPublished, EventRouted, Overlap
from perdure_engine.identity import new_id
from perdure_engine.registry import Registered, Registration
from perdure_engine.schedules.schedule import Schedule
from perdure_engine.staging import Command, command_call, publish_call
from perdure_eventstore.keeper import Erased

if TYPE_CHECKING:
    from perdure.app import App

T = TypeVar("T")


class _Opened(NamedTuple):
    portal: BlockingPortal
    client: Client
    closing: ExitStack


class BlockingClient:
    """Publishes, starts, registers and waits; its calls may come from any thread. Leaving ``with`` disconnects."""

    def __init__(self, app: "App") -> None:
        self._app = app
        self._guard = threading.Lock()
        self._opened: _Opened | None = None
        _all.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.closing.close()

    def register(self, document: object, *, allow_unknown_types: bool = False) -> Registered:
        """As App.register."""
        return self._ask(lambda client: client.register(document, allow_unknown_types=allow_unknown_types))

    def retire(self, workflow_id: str) -> None:
        """As App.retire."""
        self._ask(lambda client: client.registry.retire(workflow_id))

    def definitions(self, workflow_id: str | None = None) -> list[Registration]:
        """As App.definitions."""
        return self._ask(lambda client: client.registry.versions(workflow_id))

    def erase(self, run_id: UUID, *, reason: str = "", actor: str = "") -> Erased:
        """As App.erase."""
        return self._ask(lambda client: client.erase(run_id, reason, actor))

    def doctor(self, *, repair: bool = False) -> Diagnosis:
        """As App.doctor."""
        return self._ask(lambda client: client.doctor(repair=repair))

    def publish(
        self,
        event: str,
        payload: Any = None,
        *,
        key: str | None = None,
        event_id: UUID | None = None,
        run: UUID | None = None,
        connection: Within | None = None,
    ) -> "BlockingPublished":
        """As App.publish: the event is on the disk when this returns.

        With ``connection`` it is recorded when the caller's transaction commits, and no other connection is opened.
        """
        fact = EventPublished(name=event, key=key, run=run, payload=as_json(payload))
        if connection is None:
            published = self._ask(lambda client: client.publish(fact, event_id))
            return BlockingPublished(self, published.event_id, published.position)
        refuse_in_the_clear(self._app.settings.encryption)
        check_event(fact, event_id)
        stream = event_id or new_id()
        execute(connection, publish_call(fact, stream), self._app.schema)
        return BlockingPublished(self, stream, None)

    def start(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        event: str | None = None,
        key: str | None = None,
        run_id: UUID | None = None,
        connection: Within | None = None,
    ) -> "BlockingRun":
        """As App.start."""
        given = as_json({} if input is None else input)
        if connection is None:
            run = self._ask(lambda client: client.start(workflow_id, given, event, key, run_id))
            return BlockingRun(self, run.run_id)
        refuse_in_the_clear(self._app.settings.encryption)
        run, starting = self._ask(lambda client: client.stage_start(workflow_id, given, event, key, run_id))
        if starting is not None:
            execute(connection, starting, self._app.schema)
        return BlockingRun(self, run.run_id)

    def cancel(self, run_id: UUID, reason: str = "", *, connection: Within | None = None) -> None:
        """As App.cancel."""
        self._command("cancel", run_id, reason, connection)

    def pause(self, run_id: UUID, reason: str = "", *, connection: Within | None = None) -> None:
        """As App.pause."""
        self._command("pause", run_id, reason, connection)

    def resume(self, run_id: UUID, reason: str = "", *, connection: Within | None = None) -> None:
        """As App.resume."""
        self._command("resume", run_id, reason, connection)

    def _command(self, command: Command, run_id: UUID, reason: str, connection: Within | None) -> None:
        check_run_id(run_id)
        if connection is None:
            self._ask(lambda client: client.command(run_id, command, reason))
        else:
            execute(connection, command_call(run_id, command, check_reason(reason)), self._app.schema)

    def schedule(
        self,
        name: str,
        workflow_id: str,
        *,
        cron: str,
        timezone: str = "UTC",
        input: Any = None,
        event: str | None = None,
        key: str | None = None,
        overlap: Overlap = "skip",
        catch_up: CatchUp = "last",
    ) -> Schedule:
        """As App.schedule."""
        asked = wanted(name, workflow_id, cron, timezone, input, event, key, overlap, catch_up)

        async def set_it(client: Client) -> Schedule:
            await client.check_key()
            return await client.schedules.set(asked)

        return self._ask(set_it)

    def schedules(self) -> list[Schedule]:
        """As App.schedules."""
        return self._ask(lambda client: client.schedules.all())

    def pause_schedule(self, name: str, reason: str = "") -> Schedule:
        """As App.pause_schedule."""
        return self._ask(lambda client: client.schedules.pause(name, reason))

    def resume_schedule(self, name: str) -> Schedule:
        """As App.resume_schedule."""
        return self._ask(lambda client: client.schedules.resume(name))

    def delete_schedule(self, name: str) -> None:
        """As App.delete_schedule."""
        self._ask(lambda client: client.schedules.delete(name))

    def backfill(self, name: str, start: datetime, end: datetime, *, overlap: str | None = None) -> Schedule:
        """As App.backfill."""
        return self._ask(lambda client: client.schedules.backfill(name, start, end, overlap))

    def run(self, run_id: UUID) -> "BlockingRun":
        """A handle on a run; nothing is asked of the database yet."""
        return BlockingRun(self, check_run_id(run_id))

    def _ask(self, question: Callable[[Client], Awaitable[T]]) -> T:
        opened = self._open()
        future = opened.portal.start_task_soon(question, opened.client)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C while waiting: nobody waits any more.
            future.cancel()
            raise

    def _open(self) -> _Opened:
        with self._guard:
            if self._opened is None:
                app = self._app
                with ExitStack() as stack:
                    portal = stack.enter_context(start_blocking_portal(name="perdure"))
                    connection: AbstractContextManager[Client] = portal.wrap_async_context_manager(
                        connected(app.database_name, app.types, app.schema, app.settings)
                    )
                    client = stack.enter_context(connection)
                    self._opened = _Opened(portal, client, stack.pop_all())
            return self._opened

    def _after_fork(self) -> None:
        """In a forked child: the loop's thread is not here, and its sockets are the parent's. Touch neither."""
        self._guard = threading.Lock()
        if self._opened is not None:
            _parents.append(self._opened)
            self._opened = None


class BlockingPublished:
    """A published event: its ``event_id`` and its ``position`` in the log, None for one that is not committed yet."""

    def __init__(self, client: BlockingClient, event_id: UUID, position: int | None) -> None:
        self._client = client
        self.event_id, self.position = event_id, position

    def routed(self, timeout: float | None = 30.0) -> EventRouted:
        """What it met, once a node has routed it. Raises TimeoutError."""
        return self._client._ask(lambda client: client.routed(self.event_id, timeout))

    def runs(self, timeout: float | None = 30.0) -> "list[BlockingRun]":
        """The runs it started or reached, once a node has routed it. Raises TimeoutError."""
        matches = self.routed(timeout).matches
        return [BlockingRun(self._client, match.run) for match in matches if match.run is not None]


class BlockingRun:
    """A run, by its id."""

    def __init__(self, client: BlockingClient, run_id: UUID) -> None:
        self._client = client
        self.run_id = run_id

    def status(self) -> str:
        """As Run.status. Raises UnknownRun."""
        return self._client._ask(lambda client: Run(client, self.run_id).status())

    def result(self, timeout: float | None = None) -> Any:
        """As Run.result: what the run gave. Raises RunFailed, RunCancelled, RunTimedOut, StillOpen."""
        return self._client._ask(lambda client: Run(client, self.run_id).result(timeout))

    def __repr__(self) -> str:
        return f"BlockingRun({self.run_id})"


_all: "weakref.WeakSet[BlockingClient]" = weakref.WeakSet()

_parents: list[_Opened] = []
"""What a fork copied of its parent's: kept for ever, because tidying it up would disturb the parent."""


def _forget_all() -> None:
    for client in list(_all):
        client._after_fork()


os.register_at_fork(after_in_child=_forget_all)

"""What a client finds out before it starts a run, or says that there is none."""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from perdure.errors import StartRefused
from perdure_engine.facts import EventRouted, decode_fact
from perdure_engine.history import RunArchived, UnknownRun, load_run
from perdure_engine.identity import new_id, start_stream
from perdure_engine.registry import Registry, UnknownWorkflow
from perdure_engine.run import new_run
from perdure_engine.run.commands import StartRun
from perdure_engine.run.events import RunStarted
from perdure_engine.run.state import RunState
from perdure_engine.starting import WrongStart, start_command
from perdure_eventstore.door import Json
from perdure_eventstore.keeper import ARCHIVED
from perdure_eventstore.read import Reader


class Order(NamedTuple):
    """A start, as the caller gave it."""

    workflow_id: str
    input: Json
    event: str | None
    key: str | None


class Start(NamedTuple):
    """A run before its first event, and the command that starts it."""

    state: RunState
    command: StartRun


class Starts:
    """Decides on starts; ``now`` is the database's time."""

    def __init__(self, reader: Reader, registry: Registry, now: Callable[[], datetime]) -> None:
        self._reader, self._registry, self._now = reader, registry, now

    async def decide(self, order: Order, run_id: UUID | None) -> Start | UUID:
        """What starts a run, or the id of one that is there already. Raises UnknownWorkflow, StartRefused."""
        if not isinstance(order.workflow_id, str):
            raise StartRefused(f"a workflow_id is text, not {order.workflow_id!r:.60}")
        try:
            active = await self._registry.active(order.workflow_id)
            definition = await self._registry.definition(active.digest)
            command = start_command(definition, self._now(), order.input, order.event, order.key)
        except (UnknownWorkflow, WrongStart) as error:
            # What cannot be started now may have been started before.
            if run_id is not None and await self.is_there(run_id, order):
                return run_id
            if isinstance(error, WrongStart):
                raise StartRefused(str(error)) from error
            raise
        return Start(new_run(definition, run_id or new_id()), command)

    async def is_there(self, run: UUID, order: Order) -> bool:
        """Whether the run was started before, with the same content. Raises StartRefused if with other content."""
        try:
            loaded = await load_run(self._reader, self._registry, run)
        except RunArchived as error:
            raise StartRefused(f"{error}; choose another run id") from error
        except UnknownRun:
            return False
        if loaded.erased:
            raise StartRefused(f"run {run} was started before, and its payloads were erased; choose another run id")
        known = loaded.state
        workflow_id, start = known.definition.workflow_id, known.start
        if workflow_id != order.workflow_id:
            raise StartRefused(f"run {run} is one of {workflow_id}; choose another run id")
        if (known.input, start.name, start.key) != (order.input, order.event or start.name, order.key):
            raise StartRefused(f"run {run} was started before with another input, event or key; choose another run id")
        return True

    async def is_asked_for(self, run: UUID) -> bool:
        """Whether the run was asked for in SQL. Raises UnknownRun, with the reason, if it was not started for one."""
        asked = False
        async for recorded in self._reader.stream(start_stream(run)):
            asked, fact = True, decode_fact(recorded)
            if isinstance(fact, EventRouted) and not any(match.outcome == "started" for match in fact.matches):
                raise UnknownRun(run, "; ".join(match.reason for match in fact.matches) or fact.reason)
        return asked

    async def check_known(self, run: UUID) -> None:
        """Raise UnknownRun unless there is such a run, or it was asked for."""
        async for first in self._reader.stream(run, batch=1):
            if first.type == RunStarted.__name__:
                return
            if first.type == ARCHIVED:
                raise RunArchived(run, first.data)
            break
        if not await self.is_asked_for(run):
            raise UnknownRun(run)

"""Runs that are started on this node, and who waits to hear that their start is recorded."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from perdure_engine.holder import Holder
from perdure_engine.identity import shard_of
from perdure_engine.leases import Leases
from perdure_engine.run import commands as c
from perdure_engine.run import events as e
from perdure_engine.run import new_run
from perdure_engine.run.state import RunState
from perdure_engine.starting import StartOrder, append_start
from perdure_eventstore.appender import Appender
from perdure_eventstore.errors import Conflict, LogError, LogUnavailable


class RunStarts:
    """Starts runs of this node's shards, and leaves the others to their owners."""

    def __init__(self, holder: Holder, leases: Leases, appender: Appender, now: Callable[[], datetime]) -> None:
        self._holder, self._leases, self._appender, self._now = holder, leases, appender, now
        self._starting: dict[UUID, asyncio.Future[bool]] = {}
        holder.listeners.append(self._told)
        holder.refused.append(self._refused)

    async def start(self, order: StartOrder) -> bool:
        """Start the run an event starts; returns once it is recorded, False if it was there already."""
        command = c.StartRun(
            at=self._now(), input=order.event.payload, event=order.event.name, event_id=order.event.id,
            key=order.key,
        )  # fmt: skip
        return await self.start_run(new_run(order.definition, order.run), command, order.armed_at)

    async def start_run(self, state: RunState, command: c.StartRun, armed_at: int | None = None) -> bool:
        """Start a run here if this node leases its shard, or leave it to its owner. False: it was there already."""
        while (other := self._starting.get(state.run_id)) is not None:
            await asyncio.wait([other])
        if shard_of(state.run_id) not in self._leases.known:
            return await append_start(self._appender, state, command, armed_at)
        started: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._starting[state.run_id] = started
        try:
            if not self._holder.start_run(state, command, armed_at):
                return False
            return await started
        finally:
            self._starting.pop(state.run_id, None)

    def close(self) -> None:
        """The node stops: whether the rest is recorded is not known here."""
        for started in self._starting.values():
            if not started.done():
                started.set_exception(LogUnavailable("the node stopped before the run was known to be recorded"))

    def _told(self, run: UUID, events: Sequence[e.RunEvent], state: RunState) -> None:
        if (started := self._starting.pop(run, None)) is not None and not started.done():
            started.set_result(any(isinstance(event, e.RunStarted) for event in events))

    def _refused(self, run: UUID, error: LogError) -> None:
        if (started := self._starting.pop(run, None)) is None or started.done():
            return
        if isinstance(error, Conflict):
            started.set_result(False)
        else:
            started.set_exception(error)

"""Taking snapshots of the runs a node holds, beside their way: each when it has grown, all of them now and then."""

import asyncio
import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

import structlog

from perdure_engine.held_run import HeldRun
from perdure_engine.snapshots import Snapshots
from perdure_eventstore.errors import LogError

log = structlog.get_logger(__name__)

SHARE: Final = 0.05
"""Of the time: a run of 100,000 tasks takes a second to write, and shall not be written without end."""


class SnapshotTaker:
    """Told of every commit of a held run (``grown``); ``run`` takes what is due, one run at a time."""

    def __init__(self, snapshots: Snapshots, every: int) -> None:
        """``every`` is by how many events a run grows from one snapshot to the next; 0 takes none."""
        self._snapshots, self._every = snapshots, every
        self._kept: dict[UUID, int] = {}
        self._due: dict[UUID, HeldRun] = {}
        self._ended: list[UUID] = []
        self._some = asyncio.Event()

    def grown(self, run: HeldRun) -> None:
        """Take in a commit of ``run``."""
        if not self._every or run.head.version < self._every:
            return
        if run.state.is_ended:
            self._due.pop(run.run_id, None)
            if self._kept.pop(run.run_id, None) is not None:
                self._ended.append(run.run_id)
                self._some.set()
        elif run.head.version - self._kept.get(run.run_id, 0) >= self._every:
            self._due[run.run_id] = run
            self._some.set()

    def forget(self, whether: Callable[[UUID], bool]) -> None:
        """The runs of which ``whether`` is true are another node's."""
        self._due = {run: held for run, held in self._due.items() if not whether(run)}
        self._kept = {run: version for run, version in self._kept.items() if not whether(run)}

    async def run(self) -> None:
        """Take what is due, for ever. Raises LogError."""
        while True:
            await self._some.wait()
            begun = time.monotonic()
            await self.run_once()
            await asyncio.sleep((time.monotonic() - begun) * (1 / SHARE - 1))

    async def run_once(self) -> None:
        """Take one snapshot, and delete those of runs that have ended. Raises LogError."""
        while self._ended:
            await self._snapshots.delete(self._ended[-1])
            self._ended.pop()
        if self._due:
            run_id, run = next(iter(self._due.items()))
            del self._due[run_id]
            await self._take(run)
        if not self._due and not self._ended:
            self._some.clear()

    async def _take(self, run: HeldRun) -> None:
        state, head = run.state, run.head
        # Whether it can be kept or not, the next one is due when the run has grown again.
        self._kept[run.run_id] = head.version
        try:
            await self._snapshots.keep(state, head)
        except LogError:
            raise
        except Exception:
            log.exception("a snapshot could not be taken", run=str(run.run_id))

"""Giving shards away with their runs under way: to nodes that joined later.

What this node executes of them goes on here, as an assignment of the next owner's: nothing is interrupted.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator
from typing import Any
from uuid import UUID

import orjson
import structlog

from perdure_engine.assignments import Assignments
from perdure_engine.attempts import Attempts
from perdure_engine.held_run import HeldRun
from perdure_engine.holder import Holder
from perdure_engine.identity import shard_of
from perdure_engine.leases import Leases
from perdure_engine.run.commands import AttemptEnd, BeginAttempt
from perdure_eventstore.errors import FenceLost

log = structlog.get_logger(__name__)


class HandOver:
    """Gives away what a node has more than its share."""

    def __init__(
        self, holder: Holder, attempts: Attempts, assignments: Assignments, leases: Leases, lock: asyncio.Lock
    ) -> None:
        """``lock`` keeps what reaches runs from being told meanwhile."""
        self._holder, self._attempts, self._assignments = holder, attempts, assignments
        self._leases, self._lock = leases, lock

    async def give(self, shards: Collection[int]) -> None:
        """Give ``shards`` away. Raises FenceLost, LogError; the shards stay where they are then."""
        mine = frozenset(shards)
        if not mine:
            return
        with self._leases.leaving(mine):
            async with self._lock:
                runs = self._holder.held(lambda run: shard_of(run) in mine)
                try:
                    await self._give(mine, runs)
                except FenceLost:
                    raise
                except BaseException:
                    # Given or not: the next renewal finds out, and who has lost them joins anew. Or the node stops, and
                    # what ends by then is still recorded.
                    for run in runs:
                        run.thaw()
                    raise
        log.info("shards handed over", shards=len(mine), runs=len(runs))

    async def _give(self, mine: Collection[int], runs: Collection[HeldRun]) -> None:
        await asyncio.gather(*(run.freeze() for run in runs))
        rows = list(self._rows(runs))
        going = [((row["run"], row["task_id"]), row["attempt"]) for row in rows]
        with self._assignments.handing_over(going):
            await self._leases.give(mine, orjson.dumps(rows))
            self._let_go(runs, lambda run: shard_of(run) in mine)

    def _rows(self, runs: Collection[HeldRun]) -> Iterator[dict[str, Any]]:
        placement = self._holder.placement
        for run in runs:
            for task_id, task in run.state.tasks.items():
                if task.status == "started" and task.node == self._holder.node_id:
                    yield placement.assignment(run, task_id, task.attempt, self._holder.node_id)

    def _let_go(self, runs: Collection[HeldRun], whether: Callable[[UUID], bool]) -> None:
        self._assignments.adopt([attempt for attempt in self._attempts if whether(attempt.order.run_id)])
        self._holder.forget(whether)
        for run in runs:
            messages = run.release()
            self._holder.placement.leave(
                run, [each.command for each in messages if isinstance(each.command, BeginAttempt)]
            )  # fmt: skip
            for message in messages:
                if isinstance(message.command, AttemptEnd) and message.inbox is None:
                    # It ended while its run was being handed over.
                    self._assignments.report(run.run_id, message.command)
            self._holder.consumed([each.inbox for each in messages if each.inbox is not None], recorded=True)

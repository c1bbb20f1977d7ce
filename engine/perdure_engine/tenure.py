"""A node's time under one identity: what it consists of, and its duties."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self
from uuid import UUID

import orjson
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_engine.assignments import Assignments
from perdure_engine.attempts import CANCEL_GRACE, Attempts
from perdure_engine.background import Background
from perdure_engine.dispatch import Dispatch
from perdure_engine.duties import repeat
from perdure_engine.endings import Endings
from perdure_engine.exactly_once import ExactlyOnce
from perdure_engine.hand_over import HandOver
from perdure_engine.holder import Holder, Identity
from perdure_engine.identity import new_id
from perdure_engine.inbox import Inbox
from perdure_engine.leases import SHARDS_FREE, Leases
from perdure_engine.limits import Permits, Rates
from perdure_engine.placement import Placement
from perdure_engine.reaching import Reaching
from perdure_engine.registry import Registry
from perdure_engine.router import Router
from perdure_engine.run import events as e
from perdure_engine.run.state import RunState
from perdure_engine.run_starts import RunStarts
from perdure_engine.schedules.firing import Firing
from perdure_engine.sealing import sealing_of
from perdure_engine.slots import Slots
from perdure_engine.snapshot_taker import SnapshotTaker
from perdure_engine.snapshots import Snapshots
from perdure_engine.task_types import TaskTypes
from perdure_engine.timers import Timers
from perdure_engine.watchdog import Watchdog
from perdure_engine.work import WorkStatement
from perdure_eventstore.append import read_clock
from perdure_eventstore.appender import Appender
from perdure_eventstore.errors import FenceLost, LogError
from perdure_eventstore.feed import Feed
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

log = structlog.get_logger(__name__)

_FOREVER = float("inf")
_SWEEP = 300.0
_SHARE_FROM = 32
"""Fewer appends are not worth a commit each."""
_ASK_AGAIN = 0.25
"""Seconds between two looks whether another node's attempt gave a permit back."""
_ON_THE_WAY = 5.0
"""Seconds that a cancel, and what came of it, may take from node to node."""


class Settings(NamedTuple):
    """How a node works. Times are seconds."""

    schema: str = "perdure"
    concurrency: int = 100
    """Attempts at once."""
    lease: float = 10.0
    """How long a dead node's runs wait for another."""
    poll: float = 6.0
    """How long a lost hint can delay an event from outside."""
    stop: float = 10.0
    """How long a clean stop may take before it becomes an unclean one."""
    scan: float = 30.0
    """Between two looks for open runs that nobody works on."""
    snapshot_every: int = 1_000
    """Events by which a run grows from one snapshot to the next; 0 takes none."""


class Tenure:
    """Everything a node is made of, wired together; ``async with`` it, then ``work``."""

    def __init__(
        self, engine: AsyncEngine, types: TaskTypes, settings: Settings, feed: Feed, vault: "Vault | None" = None
    ) -> None:
        """``feed`` is run by whoever made it."""
        schema = settings.schema
        self.node_id = new_id()
        self._settings = settings
        self._fenced, self._due = asyncio.Event(), asyncio.Event()
        self._unplaced, self._shards_free, self._too_many = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._background = Background()
        self._session, self._router_session, self._lease_session = Session(engine), Session(engine), Session(engine)
        self._snapshot_session = Session(engine)
        self.leases = Leases(self._lease_session, self.node_id, types, settings.concurrency, schema, settings.lease)
        fence = self.node_id, self.leases.epoch
        statement = WorkStatement(schema, *fence)
        self.appender = Appender(
            engine, statement, patience=_FOREVER, schema=schema, vault=vault, share_from=_SHARE_FROM
        )  # fmt: skip
        self.feed = feed
        self.registry = Registry(self._session, self.appender, schema)
        inbox = Inbox(self._session, fence, schema, vault)
        self.timers = Timers(self._session, schema, fence, now=self.now, wake=self._due.set)
        self._snapshots = Snapshots(self._snapshot_session, schema, sealing=sealing_of(vault))
        self._taker = SnapshotTaker(self._snapshots, settings.snapshot_every)
        exactly_once = ExactlyOnce(engine, statement, self.appender.clock, self.now, vault)
        self.attempts = Attempts(types, exactly_once, now=self.now, leases=self.leases)
        dispatch = Dispatch(self._session, fence, schema, self._unplaced.set)
        self.permits, self.rates = Permits(self._session, fence, schema), Rates(self._session, schema)
        placement = Placement(
            self.node_id, Slots(settings.concurrency), dispatch, types, self.leases, self.permits, self.rates
        )
        self.holder = Holder(
            Identity(self.node_id, orjson.dumps({"node": str(self.node_id)}), self.now),
            self._background,
            self.appender,
            Reader(self._session, schema, vault),
            self.registry,
            types,
            self.attempts,
            exactly_once,
            self.leases,
            placement,
            self.timers,
            inbox,
            Snapshots(
                self._session, schema, worth=min(settings.snapshot_every, 1_000) or 1_000, sealing=sealing_of(vault)
            ),
            self._taker,
        )
        self.endings = Endings()
        self.starts = RunStarts(self.holder, self.leases, self.appender, self.now)
        self.schedules = Firing(
            self._session,
            self.appender,
            self.registry,
            schema,
            self.starts.start_run,
            lambda: self.leases.shards,
            vault,
        )
        self.holder.listeners += [self._told, self.endings.told, self.schedules.told]
        self.holder.refused.append(self._refused)
        self.holder.stopping.append(self._stopping)
        self.assignments = Assignments(
            self._session, self.registry, self.attempts, placement, fence, self.now, schema, self._fenced.set, vault
        )
        slots = placement.slots
        self.leases.load = lambda: max(0, slots.limit - slots.free + slots.waiting - len(self.assignments))
        self.reaching = Reaching(
            self.holder, inbox, self.timers, self.leases, dispatch, self.appender, self._session, schema, self.now,
            self.assignments, self.schedules.wake,
        )  # fmt: skip
        self._hand_over = HandOver(self.holder, self.attempts, self.assignments, self.leases, self.reaching.lock)
        self.router = Router(
            self._router_session, self.appender, self.registry, self.feed, schema, self.starts.start,
            self.reaching.letters.set, lambda: 0 in self.leases.shards, vault,
        )  # fmt: skip

    def now(self) -> datetime:
        """Now, by the database's clock."""
        return self.appender.clock.moment()

    async def __aenter__(self) -> Self:
        try:
            await self.leases.join()
            # What is due is due by the database's clock, before this node has appended anything.
            await read_clock(await self._session.connection(), self.appender.clock)
            self._appending = self._background.spawn(self.appender.run())
            await self._renew()
            await self.reaching.learn()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.timers.stop()
        self.holder.close()
        try:
            if isinstance(error, Exception):
                await self.attempts.abandon_all()
            else:
                async with asyncio.timeout(self._settings.stop):
                    await self._stop()
        except (TimeoutError, LogError) as late:
            # What is not recorded is interrupted all the same, as of a node that died.
            log.warning("the node stopped before everything was recorded", attempts=len(self.attempts), why=str(late))
        finally:
            await self._close()

    async def _stop(self) -> None:
        await self.attempts.interrupt_all(0.8 * self._settings.stop)
        await self.assignments.flush()
        await self.appender.drain()
        await self.leases.release()

    async def work(self, stopping: asyncio.Event) -> None:
        """Do every duty until ``stopping`` is set. Raises FenceLost when another node took over."""
        self.timers.start()
        watchdog = Watchdog(self.attempts.running_in)
        self.feed.listeners.append(self._heard)
        settings, reaching = self._settings, self.reaching
        duties = [
            self._background.spawn(duty)
            for duty in (
                repeat(reaching.take_over, settings.scan, reaching.has_taken),
                repeat(self._renew, self.leases.renewal_interval, self._shards_free),
                repeat(self._give_surplus, settings.scan, self._too_many),
                repeat(reaching.look, settings.poll, reaching.letters),
                repeat(reaching.fire_timers, settings.scan, self._due),
                repeat(self.schedules.fire, settings.scan, self.schedules.wake),
                repeat(reaching.scan, settings.scan),
                repeat(reaching.settle_dispatch, self.leases.renewal_interval, self._unplaced),
                repeat(self.assignments.flush, settings.scan, self.assignments.has_results),
                repeat(self.permits.grant, _ASK_AGAIN, self.permits.wake),
                repeat(self.rates.grant, settings.scan, self.rates.wake),
                repeat(self.router.run, 0.1),
                repeat(self._taker.run, 1.0),
                repeat(self._sweep, _SWEEP),
                self._until_fenced(),
            )
        ]
        stop = asyncio.create_task(stopping.wait())
        try:
            done, _ = await asyncio.wait([stop, self._appending, *duties], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            watchdog.stop()
            self.feed.listeners.remove(self._heard)
            stop.cancel()
            for task in duties:
                task.cancel()
            await asyncio.gather(stop, *duties, return_exceptions=True)

    def _heard(self, text: str) -> None:
        if text == SHARDS_FREE:
            self._shards_free.set()
            return
        self.reaching.letters.set()

    async def _sweep(self) -> None:
        """Delete the snapshots and permits that runs left as they ended: one node's duty, as routing is."""
        if 0 not in self.leases.shards:
            return
        if swept := await self._snapshots.sweep():
            log.info("snapshots of ended runs deleted", snapshots=swept)
        if swept := await self.permits.sweep():
            log.warning("permits that outlived their runs deleted", permits=swept)

    def _told(self, run: UUID, events: Sequence[e.RunEvent], state: RunState) -> None:
        self.feed.hint(urgent=False)

    def _refused(self, run: UUID, error: LogError) -> None:
        if isinstance(error, FenceLost):
            self._fenced.set()

    def _stopping(self, run: UUID, away: Sequence[tuple[str, int]]) -> None:
        self._background.spawn(self.reaching.cancel_away(run, away, CANCEL_GRACE + _ON_THE_WAY))

    async def _renew(self) -> None:
        reaching = self.reaching
        reaching.taken |= await self.leases.renew()
        if reaching.taken:
            reaching.has_taken.set()
        elif self.leases.surplus > 0:
            self._too_many.set()

    async def _give_surplus(self) -> None:
        """Apart from the renewal, which must not wait until what is in flight is recorded."""
        if self.leases.surplus > 0 and not self.reaching.taken:
            shards, self.leases.surplus = self.holder.quietest(self.leases.shards, self.leases.surplus), 0
            await self._hand_over.give(shards)

    async def _until_fenced(self) -> None:
        await self._fenced.wait()
        raise FenceLost(f"node {self.node_id} was fenced off")

    async def _close(self) -> None:
        await self._background.close()
        self.starts.close()
        for session in (self._session, self._router_session, self._lease_session, self._snapshot_session):
            await session.close()

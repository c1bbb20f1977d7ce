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

from perdure_engine.attempts import Attempts
from perdure_engine.background import Background
from perdure_engine.duties import repeat
from perdure_engine.endings import Endings
from perdure_engine.exactly_once import ExactlyOnce
from perdure_engine.history import UnknownRun
from perdure_engine.holder import Holder, Identity
from perdure_engine.identity import new_id, shard_of
from perdure_engine.inbox import Inbox, Letter
from perdure_engine.leases import Leases
from perdure_engine.registry import Registry
from perdure_engine.router import Router
from perdure_engine.run import advance, new_run
from perdure_engine.run import commands as c
from perdure_engine.run import events as e
from perdure_engine.run.state import RunState
from perdure_engine.schedules.firing import Firing
from perdure_engine.sealing import sealing_of
from perdure_engine.snapshot_taker import SnapshotTaker
from perdure_engine.snapshots import Snapshots
from perdure_engine.starting import StartOrder, append_start
from perdure_engine.task_types import TaskTypes
from perdure_engine.timers import Timer, Timers
from perdure_engine.work import WorkStatement
from perdure_eventstore.appender import Appender
from perdure_eventstore.errors import Conflict, FenceLost, LogError, LogUnavailable
from perdure_eventstore.feed import Feed
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session
from perdure_eventstore.vault.errors import VaultError

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

log = structlog.get_logger(__name__)

_FOREVER = float("inf")
_SWEEP = 300.0


class Settings(NamedTuple):
    """How a node works. Times are seconds."""

    schema: str = "perdure"
    concurrency: int = 100
    """Attempts at once."""
    lease: float = 10.0
    """How long a dead node's runs wait for another."""
    poll: float = 1.0
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
        schema, self._vault = settings.schema, vault
        self.node_id = new_id()
        self._settings = settings
        self._fenced, self._letters, self._due = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._background = Background()
        self._taken: set[int] = set()
        self._taken_over = asyncio.Event()
        self._session, self._router_session, self._lease_session = Session(engine), Session(engine), Session(engine)
        self._snapshot_session = Session(engine)
        self.leases = Leases(self._lease_session, self.node_id, types.names(), schema, settings.lease)
        statement = WorkStatement(schema, self.node_id, self.leases.epoch)
        self.appender = Appender(engine, statement, patience=_FOREVER, schema=schema, vault=vault)
        self.feed = feed
        self.registry = Registry(self._session, self.appender, schema)
        self.inbox = Inbox(self._session, schema, vault)
        self.timers = Timers(self._session, schema, (self.node_id, self.leases.epoch), now=self.now, wake=self._due.set)
        self._snapshots = Snapshots(self._snapshot_session, schema, sealing=sealing_of(vault))
        self._taker = SnapshotTaker(self._snapshots, settings.snapshot_every)
        self.holder = Holder(
            Identity(self.node_id, orjson.dumps({"node": str(self.node_id)}), self.now),
            self._background,
            self.appender,
            Reader(self._session, schema, vault),
            self.registry,
            types,
            self._attempts(engine, types, statement),
            self.timers,
            self.inbox,
            settings.concurrency,
            Snapshots(
                self._session, schema, worth=min(settings.snapshot_every, 1_000) or 1_000, sealing=sealing_of(vault)
            ),
            self._taker,
        )
        self.endings = Endings()
        self.schedules = Firing(
            self._session, self.appender, self.registry, schema, self.start_run, lambda: self.leases.shards, vault
        )
        self.holder.listeners += [self._told, self.endings.told, self.schedules.told]
        self.holder.refused.append(self._refused)
        self.router = Router(
            self._router_session, self.appender, self.registry, self.feed, schema, self.start, self._letters.set,
            lambda: 0 in self.leases.shards, vault,
        )  # fmt: skip
        self._open = f'select run from "{schema}".open_runs where shard = any(%s)'
        self._reaching = asyncio.Lock()
        """Held while runs are looked up for what reached them, so that no shard is given away under them."""
        self._starting: dict[UUID, asyncio.Future[bool]] = {}

    def _attempts(self, engine: AsyncEngine, types: TaskTypes, statement: WorkStatement) -> Attempts:
        exactly_once = ExactlyOnce(engine, statement, self.appender.clock, self.now, self._vault)
        self.attempts = Attempts(types, exactly_once, now=self.now, leases=self.leases)
        return self.attempts

    def now(self) -> datetime:
        """Now, by the database's clock."""
        return self.appender.clock.moment()

    async def __aenter__(self) -> Self:
        try:
            await self.leases.join()
            self._appending = self._background.spawn(self.appender.run())
            await self._renew()
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
        await self.attempts.interrupt_all()
        await self.appender.drain()
        await self.leases.release()

    async def work(self, stopping: asyncio.Event) -> None:
        """Do every duty until ``stopping`` is set. Raises FenceLost when another node took over."""
        self.timers.start()
        self.feed.listeners.append(self._letters.set)
        duties = [
            self._background.spawn(repeat(self.take_over, self._settings.scan, self._taken_over)),
            self._background.spawn(repeat(self._renew, self.leases.renewal_interval)),
            self._background.spawn(repeat(self.read_inbox, self._settings.poll, self._letters)),
            self._background.spawn(repeat(self.fire_timers, self._settings.scan, self._due)),
            self._background.spawn(repeat(self.schedules.fire, self._settings.scan, self.schedules.wake)),
            self._background.spawn(repeat(self.scan, self._settings.scan)),
            self._background.spawn(repeat(self.router.run, 0.1)),
            self._background.spawn(repeat(self._taker.run, 1.0)),
            self._background.spawn(repeat(self._sweep, _SWEEP)),
            self._background.spawn(self._until_fenced()),
        ]
        stop = asyncio.create_task(stopping.wait())
        try:
            done, _ = await asyncio.wait([stop, self._appending, *duties], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.feed.listeners.remove(self._letters.set)
            stop.cancel()
            for task in duties:
                task.cancel()
            await asyncio.gather(stop, *duties, return_exceptions=True)

    async def start(self, order: StartOrder) -> bool:
        """Start the run an event starts; returns once it is recorded, False if it was there already."""
        command = c.StartRun(
            at=self.now(), input=order.event.payload, event=order.event.name, event_id=order.event.id,
            key=order.key,
        )  # fmt: skip
        return await self.start_run(new_run(order.definition, order.run), command, order.armed_at)

    async def take_over(self) -> None:
        """Resume every open run of newly leased shards. Apart from the renewal, which must not wait for it."""
        while self._taken:
            shards = frozenset(self._taken)
            rows = await self._session.fetch(self._open, (sorted(shards),))
            if rows:
                log.info("resuming open runs", runs=len(rows), shards=len(shards))
            for (run,) in rows:
                await self._resume(run)
            self._taken -= shards
            self._letters.set()
            self.timers.look()
            self.schedules.wake.set()

    async def scan(self) -> None:
        """Resume what is open, active and held by nobody: a lost wake-up shall not strand a run."""
        async with self._reaching:
            for (run,) in await self._session.fetch(self._open, (sorted(self.leases.shards),)):
                if not self.holder.knows(run):
                    await self._resume(run)

    async def _sweep(self) -> None:
        """Delete the snapshots that runs left as they ended: one node's duty, as routing is."""
        if 0 in self.leases.shards and (swept := await self._snapshots.sweep()):
            log.info("snapshots of ended runs deleted", snapshots=swept)

    async def read_inbox(self) -> None:
        """Hand what came from outside to its runs."""
        self.inbox.take_up()
        while True:
            async with self._reaching:
                letters = await self.inbox.read(sorted(self.leases.shards))
                handed = 0
                try:
                    for letter in letters:
                        await self._hand(letter)
                        handed += 1
                finally:
                    self.inbox.forget([letter.id for letter in letters[handed:]])
            if not letters:
                return
            await self.appender.drain()

    async def fire_timers(self) -> None:
        """Tell every run whose timer is due."""
        while True:
            async with self._reaching:
                at = self.now()
                timers = await self.timers.due(sorted(self.leases.shards), at)
                for timer in timers:
                    await self._fire(timer)
            if not timers:
                await self.timers.arm(sorted(self.leases.shards), at)
                return
            await self.appender.drain()

    async def _fire(self, timer: Timer) -> None:
        try:
            run = await self.holder.get(timer.run)
            command = timer.command(self.now())
            if run.is_busy or _concerns(run.state, command):
                run.tell(command)
            else:
                self.holder.idle(run)
                await self.timers.delete(timer)
        except LogError:
            raise
        except Exception:
            # One run that cannot be read shall not hold up everybody's timers.
            log.exception("a timer cannot be told to its run", run=str(timer.run), timer=timer.timer)

    async def start_run(self, state: RunState, command: c.StartRun, armed_at: int | None = None) -> bool:
        """Start a run here if this node leases its shard, or leave it to its owner. False: it was there already."""
        if shard_of(state.run_id) not in self.leases.shards:
            return await append_start(self.appender, state, command, armed_at)
        while (other := self._starting.get(state.run_id)) is not None:
            await asyncio.wait([other])
        started: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._starting[state.run_id] = started
        try:
            if not self.holder.start_run(state, command, armed_at):
                return False
            return await started
        finally:
            self._starting.pop(state.run_id, None)

    def _told(self, run: UUID, events: Sequence[e.RunEvent], state: RunState) -> None:
        self.feed.hint(urgent=False)
        if (started := self._starting.pop(run, None)) is not None and not started.done():
            started.set_result(any(isinstance(event, e.RunStarted) for event in events))

    def _refused(self, run: UUID, error: LogError) -> None:
        if isinstance(error, FenceLost):
            self._fenced.set()
        if (started := self._starting.pop(run, None)) is None or started.done():
            return
        if isinstance(error, Conflict):
            started.set_result(False)
        else:
            started.set_exception(error)

    async def _resume(self, run: UUID) -> None:
        try:
            await self.holder.resume(run)
        except LogError:
            raise
        except Exception:
            # One run that cannot be read shall not keep the others from going on.
            log.exception("a run cannot be resumed", run=str(run))

    async def _hand(self, letter: Letter) -> None:
        try:
            if letter.kind == "started":
                await self._resume(letter.run)
                self.inbox.discard([letter.id])
                self.timers.look()
            elif letter.kind == "schedule":
                self.inbox.discard([letter.id])
                self.schedules.wake.set()
            elif letter.kind == "cancel":
                await self._cancel(letter)
            else:
                command = await self.inbox.command(letter, self.now())
                (await self.holder.get(letter.run)).tell(command, letter.id)
        except LogError:
            raise
        except VaultError as error:
            log.error("an inbox row waits for a key", run=str(letter.run), row=letter.id, reason=str(error))
            self.inbox.postpone(letter)
        except Exception:
            # One row that cannot be read shall not hold up the others.
            log.exception("an inbox row cannot be handed to its run", run=str(letter.run), row=letter.id)

    async def _cancel(self, letter: Letter) -> None:
        # Asked before the run is looked for: it may be started in between.
        is_to_come = await self.inbox.is_to_come(letter.run)
        try:
            run = await self.holder.get(letter.run)
        except UnknownRun:
            if is_to_come:
                self.inbox.postpone(letter)
            else:
                log.warning("a run that does not exist was to be cancelled", run=str(letter.run))
                self.inbox.discard([letter.id])
            return
        run.tell(await self.inbox.command(letter, self.now()), letter.id)

    async def _renew(self) -> None:
        self._taken |= await self.leases.renew()
        if self._taken:
            self._taken_over.set()
        elif self.leases.surplus > 0 and not self._reaching.locked():
            await self.leases.give(self.holder.let_go(self.leases.shards, self.leases.surplus))

    async def _until_fenced(self) -> None:
        await self._fenced.wait()
        raise FenceLost(f"node {self.node_id} was fenced off")

    async def _close(self) -> None:
        await self._background.close()
        for started in self._starting.values():
            if not started.done():
                started.set_exception(LogUnavailable("the node stopped before the run was known to be recorded"))
        for session in (self._session, self._router_session, self._lease_session, self._snapshot_session):
            await session.close()


def _concerns(state: RunState, command: c.RunCommand) -> bool:
    """Whether anything follows from ``command``. What cannot be decided does: its run fails of it."""
    try:
        return bool(advance(state, command)[0])
    except Exception:
        return True

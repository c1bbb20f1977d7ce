"""The runs a node holds, and what each of their events makes it do."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec
import structlog

from perdure_engine.attempt import Order
from perdure_engine.attempts import Attempts
from perdure_engine.background import Background
from perdure_engine.exactly_once import ExactlyOnce, OwnRun
from perdure_engine.held_run import HeldRun
from perdure_engine.history import Loaded, fold_tail, load_run, load_short
from perdure_engine.identity import shard_of
from perdure_engine.inbox import Inbox
from perdure_engine.leases import Leases
from perdure_engine.placement import Placement
from perdure_engine.registry import Registry
from perdure_engine.resting import Resting
from perdure_engine.retries import DEFAULT, retry_at
from perdure_engine.run import commands as c
from perdure_engine.run import events as e
from perdure_engine.run.state import RunState
from perdure_engine.snapshot_taker import SnapshotTaker
from perdure_engine.snapshots import Snapshots
from perdure_engine.task_types import TaskTypes
from perdure_engine.timers import Timer, Timers, due_times
from perdure_eventstore.append import Append, Appended
from perdure_eventstore.appender import Appender
from perdure_eventstore.errors import Conflict, FenceLost, LogError, LogUnavailable
from perdure_eventstore.events import NO_STREAM
from perdure_eventstore.read import Reader

log = structlog.get_logger(__name__)

Listener = Callable[[UUID, Sequence[e.RunEvent], RunState], None]
"""Told of every commit of a run this node holds: the run, its new events, its state after them."""


class Identity(NamedTuple):
    """Who a node is, what it writes into the metadata of its events, and how it tells the database's time."""

    node_id: UUID
    metadata: bytes
    now: Callable[[], datetime]


class Holder:
    """Implements ``owner.Owner``. A run is held from its start, or from when it is needed, to its end.

    One that only waits for events or timers is let go to rest; whatever reaches it takes it up again, or loads it.
    """

    def __init__(
        self,
        identity: Identity,
        background: Background,
        appender: Appender,
        reader: Reader,
        registry: Registry,
        types: TaskTypes,
        attempts: Attempts,
        exactly_once: ExactlyOnce,
        leases: Leases,
        placement: Placement,
        timers: Timers,
        inbox: Inbox,
        snapshots: Snapshots,
        taker: SnapshotTaker,
    ) -> None:
        self.node_id, self.metadata, self.now = identity
        self.placement = placement
        self.listeners: list[Listener] = []
        self.refused: list[Callable[[UUID, LogError], None]] = []
        """Told of a run whose events the log did not take."""
        self.stopping: list[Callable[[UUID, Sequence[tuple[str, int]]], None]] = []
        """Told of a run that stops while other nodes execute attempts of it: the tasks, and their attempts."""
        self.resting = Resting()
        self._appender, self._reader, self._registry = appender, reader, registry
        self._types, self._attempts, self._timers, self._inbox = types, attempts, timers, inbox
        self._exactly_once, self._leases = exactly_once, leases
        self._snapshots, self._taker = snapshots, taker
        self._held: dict[UUID, HeldRun] = {}
        self._loading: dict[UUID, asyncio.Future[None]] = {}
        self._closing = False

        self.spawn = background.spawn

    def __len__(self) -> int:
        return len(self._held)

    def is_held(self, run: UUID) -> bool:
        """Whether it is this node that decides for the run now."""
        return run in self._held

    async def get(self, run: UUID) -> HeldRun:
        """The run; if it is not held, it is loaded from the log and resumed. Raises UnknownRun, LogError."""
        while (loading := self._loading.get(run)) is not None and run not in self._held:
            # By the time this goes on, it may have been let go again.
            await asyncio.shield(loading)
        if (held := self._held.get(run)) is not None:
            return held
        if (rested := self.resting.take(run)) is not None:
            # Nothing of it is under way or scheduled, and nobody else appends to this node's runs.
            return self._hold(HeldRun(self, rested))
        future = self._loading[run] = asyncio.get_running_loop().create_future()
        try:
            loaded = await load_run(self._reader, self._registry, run, self._snapshots)
            # Somebody may have started it meanwhile, from its very first event, and let it go again.
            if (held := self._held.get(run)) is None:
                held = self._hold(HeldRun(self, self.resting.take(run) or loaded))
                self._resume(held)
            return held
        finally:
            del self._loading[run]
            future.set_result(None)

    async def load(self, runs: Sequence[UUID]) -> None:
        """Hold ``runs``, as far as they can be read together; the others are for ``get``. Raises LogError."""
        wanted = [run for run in dict.fromkeys(runs) if run not in self._held and run not in self._loading]
        rested = [known for run in wanted if (known := self.resting.take(run)) is not None]
        for known in rested:
            self._hold(HeldRun(self, known))
        if not (wanted := [run for run in wanted if run not in self._held]):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loading.update(dict.fromkeys(wanted, future))
        try:
            for run, loaded in (await load_short(self._reader, self._registry, wanted, self._snapshots)).items():
                # Somebody may have started it meanwhile, from its very first event, and let it go again.
                if run not in self._held:
                    self._resume(self._hold(HeldRun(self, self.resting.take(run) or loaded)))
        finally:
            for run in wanted:
                del self._loading[run]
            future.set_result(None)

    def rest(self, runs: Iterable[UUID]) -> None:
        """Let those of ``runs`` go that are held for nothing."""
        for run in runs:
            if (held := self._held.get(run)) is not None and not held.is_busy:
                self.idle(held)

    def start_run(self, state: RunState, command: c.StartRun, armed_at: int | None = None) -> bool:
        """Start a run of this node's shards; its first commit is told to the listeners. False: it is held already."""
        if state.run_id in self._held:
            return False
        held = self._hold(HeldRun(self, Loaded(state, NO_STREAM), armed_at))
        try:
            held.tell(command)
        except BaseException:
            del self._held[state.run_id]
            raise
        return True

    async def resume(self, run: UUID) -> bool:
        """Take up a run that nobody works on: load it, which resumes it, or let it go again. True: it is parked."""
        held = await self.get(run)
        if held.is_busy:
            return False
        self.idle(held)
        return held.state.is_parked

    def _resume(self, held: HeldRun, *, begun_by: UUID | None = None) -> None:
        """What was under way, on any node or on ``begun_by``, is interrupted; what was scheduled waits for a slot."""
        for task_id, task in held.state.tasks.items():
            if task.status != "started" or begun_by not in (None, task.node):
                continue
            if not self._is_under_way(held.run_id, task_id, task.attempt):
                held.tell(c.InterruptAttempt(at=self.now(), task_id=task_id, attempt=task.attempt))
        self._begin_scheduled(held)

    def _begin_scheduled(self, held: HeldRun) -> None:
        if held.state.paused:
            self.placement.withdraw(held.run_id)
            return
        for task_id, task in held.state.tasks.items():
            if task.status == "scheduled" and (begin := self.placement.take(held, held.state, task_id)) is not None:
                held.tell(begin)

    def _is_under_way(self, run: UUID, task_id: str, attempt: int) -> bool:
        away = self.placement.dispatch.away.get((run, task_id))
        return self._attempts.is_under_way(run, task_id) or (away is not None and away.attempt == attempt)

    def _cancel(self, run: HeldRun) -> None:
        self.placement.withdraw(run.run_id)
        self._attempts.cancel_run(run.run_id)
        if away := self.placement.dispatch.away_of(run.run_id):
            for told in self.stopping:
                told(run.run_id, away)

    def told_by(self, timer: Timer, state: RunState) -> c.FireTimer:
        """What a timer that is due tells its run: of a start that did not come, also when the next attempt is due."""
        command = timer.command(self.now())
        if command.kind != "start" or command.task_id not in state.definition.tasks:
            return command
        spec = state.definition.tasks[command.task_id]
        type_ = self._types.find(spec.type)
        policy = spec.retry or (None if type_ is None else type_.retry) or DEFAULT
        due = retry_at(policy, state.task(spec.task_id).failures + 1, command.at)
        return msgspec.structs.replace(command, max_attempts=policy.attempts, retry_at=due)

    def held(self, whether: Callable[[UUID], bool]) -> list[HeldRun]:
        """The runs that are held and of which ``whether`` is true."""
        return [held for run, held in self._held.items() if whether(run)]

    def quietest(self, shards: Collection[int], most: int) -> list[int]:
        """Up to ``most`` of ``shards``, those first in which the fewest runs are held."""
        held = Counter(shard_of(run) for run in self._held)
        return sorted(shards, key=lambda shard: (held[shard], shard))[:most]

    def forget(self, whether: Callable[[UUID], bool]) -> None:
        """Forget the runs of which ``whether`` is true: they are another node's."""
        self._held = {run: held for run, held in self._held.items() if not whether(run)}
        self.resting.forget(whether)
        self.placement.forget(whether)
        self._taker.forget(whether)

    def close(self) -> None:
        """Begin no more attempts; what is decided is still recorded."""
        self._closing = True
        self.placement.close()

    # What a held run needs of its owner.

    def submit(self, append: Append, answer: Callable[[Appended | LogError], None]) -> None:
        self._appender.submit(append, answer)

    def committed(self, run: HeldRun, events: Sequence[e.RunEvent]) -> None:
        for event in events:
            match event:
                case e.TaskCompleted():
                    continue
                case e.TaskStarted() if event.node == self.node_id:
                    self._attempts.start(self._order(run, event), OwnRun(run, self.placement.free, self._exactly_once))
                case e.TaskStarted():
                    self.placement.dispatch.sent(run.run_id, event.task_id, event.node, event.attempt)
                case e.RunResumed():
                    self._timers.look()
                    self._begin_scheduled(run)
                case e.RunPaused():
                    self.placement.withdraw(run.run_id)
                case e.RunStopping():
                    self._cancel(run)
                case _:
                    for due in due_times(event):
                        self._timers.note(due)
        for listener in self.listeners:
            listener(run.run_id, events, run.state)
        self._taker.grown(run)

    def caught_up(self, run: HeldRun, *, was_unknown: bool) -> None:
        self.committed(run, ())
        self._timers.look()
        if run.state.status == "stopping":
            self._cancel(run)
        # What others began goes on, but in a run that this node had not taken up yet: it may be an heir's, and its
        # hand-over not known here.
        self._resume(run, begun_by=None if was_unknown else self.node_id)

    def failed(self, run: HeldRun, error: LogError) -> None:
        if isinstance(error, FenceLost) or run.state.status == "new":
            self._let_go(run)
        if self._closing and isinstance(error, LogUnavailable):
            # A node that stops records what it can: the next one interrupts and resumes the rest.
            log.debug("a run's events are not recorded any more", run=str(run.run_id), error=str(error))
        elif not isinstance(error, FenceLost | Conflict):
            log.error("a run's events could not be recorded", run=str(run.run_id), error=str(error))
        for told in self.refused:
            told(run.run_id, error)

    def undecided(self, inbox: Sequence[int]) -> None:
        self._inbox.hand_again(inbox)

    def consumed(self, inbox: Sequence[int], *, recorded: bool) -> None:
        if recorded:
            self._inbox.forget(inbox)
        else:
            self._inbox.discard(inbox)

    def idle(self, run: HeldRun) -> None:
        if not (run.state.is_ended or run.state.is_parked):
            return
        if self._let_go(run) and not run.state.is_ended and run.state.status != "new":
            self.resting.put(run.known)

    async def reload(self, run: HeldRun) -> Loaded:
        return await fold_tail(self._reader, self._registry, run.known)

    # What follows is its own.

    def _order(self, run: HeldRun, event: e.TaskStarted) -> Order:
        state = run.state
        known, spec = state.task(event.task_id), state.definition.tasks[event.task_id]
        token = self._leases.fencing_token(run.run_id)
        return Order(
            run.run_id, state.definition.workflow_id, spec, event.attempt, known.inputs, known.failures, token
        )  # fmt: skip

    def _let_go(self, run: HeldRun) -> bool:
        """False: it was let go before, and may have been taken up anew."""
        if self._held.get(run.run_id) is not run:
            return False
        del self._held[run.run_id]
        self.placement.withdraw(run.run_id)
        return True

    def _hold(self, run: HeldRun) -> HeldRun:
        self._held[run.run_id] = run
        self.resting.take(run.run_id)
        return run

"""What reaches the runs of a node from outside: inbox rows, timers, shards taken over, results of other nodes."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

import structlog

from perdure_engine.assignments import Assignments
from perdure_engine.dispatch import Attempted, Dispatch
from perdure_engine.history import UnknownRun
from perdure_engine.holder import Holder
from perdure_engine.identity import shard_of
from perdure_engine.inbox import COMMANDS, Inbox, Letter
from perdure_engine.leases import Leases
from perdure_engine.run import advance
from perdure_engine.run import commands as c
from perdure_engine.run.state import RunState
from perdure_engine.timers import Timer, Timers
from perdure_eventstore.appender import Appender
from perdure_eventstore.errors import LogError
from perdure_eventstore.patience import patiently
from perdure_eventstore.session import Session
from perdure_eventstore.vault.errors import VaultError

log = structlog.get_logger(__name__)

_BATCH = 200
"""Runs that are loaded together."""


class Reaching:
    """Looks up the runs that something reached, and tells them."""

    def __init__(
        self,
        holder: Holder,
        inbox: Inbox,
        timers: Timers,
        leases: Leases,
        dispatch: Dispatch,
        appender: Appender,
        session: Session,
        schema: str,
        now: Callable[[], datetime],
        assignments: Assignments,
        schedules: asyncio.Event,
    ) -> None:
        """``schedules`` is set when there may be schedules that nobody knew of here."""
        self._assignments, self._schedules = assignments, schedules
        self._holder, self._inbox, self._timers, self._leases = holder, inbox, timers, leases
        self._dispatch, self._appender, self._session, self._now = dispatch, appender, session, now
        self.letters = asyncio.Event()
        """Set: there may be inbox rows."""
        self.taken: set[int] = set()
        """Shards that are leased, and whose runs are not resumed yet."""
        self.has_taken = asyncio.Event()
        self.lock = asyncio.Lock()
        """Held while runs are looked up for what reached them, so that no shard is given away under them."""
        self._anything = f"""select
            exists (select from "{schema}".inbox where {inbox.THERE}),
            exists (select from "{schema}".assignments where {assignments.THERE})"""
        self._active = f'select run from "{schema}".open_runs where shard = any(%s) and not parked'
        self._park = f"""update "{schema}".open_runs set parked = true where run = any(%s)
            and exists (select from "{schema}".shards s where s.shard = open_runs.shard and s.node = %s)"""

    async def learn(self) -> None:
        """Ask what is under way elsewhere of shards that were leased: before that, none of their runs is loaded."""
        if unknown := frozenset(self._leases.unknown):
            await self._dispatch.adopt(sorted(unknown))
            self._leases.unknown -= unknown

    async def take_over(self) -> None:
        """Resume every open run of newly leased shards. Apart from the renewal, which must not wait for it."""
        while self.taken:
            shards = frozenset(self.taken)
            await self.learn()
            runs = [row[0] for row in await self._session.fetch(self._active, (sorted(shards),))]
            if runs:
                log.info("resuming open runs", runs=len(runs), shards=len(shards))
            await self._take_up_all(runs)
            self.taken -= shards
            self._inbox.sweep()
            self.letters.set()
            self._timers.look()
            self._schedules.set()

    async def scan(self) -> None:
        """Resume what is open, active and held by nobody: a lost wake-up shall not strand a run."""
        # Those that were taken just now are being resumed.
        shards = self._leases.shards - self.taken
        rows = await self._session.fetch(self._active, (sorted(shards),))
        runs = [run for (run,) in rows if not self._holder.is_held(run)]
        await self._take_up_all(runs)

    async def _take_up_all(self, runs: Sequence[UUID]) -> None:
        """A batch is read while what the one before made is recorded, and no more: what goes on is not trampled on."""
        recorded: asyncio.Task[None] | None = None
        try:
            for first in range(0, len(runs), _BATCH):
                await self._take_up(runs[first : first + _BATCH])
                if recorded is not None:
                    await recorded
                recorded = asyncio.create_task(self._appender.drain())
            if recorded is not None:
                await recorded
        finally:
            if recorded is not None:
                recorded.cancel()

    async def _take_up(self, runs: Sequence[UUID]) -> None:
        async with self.lock:
            mine = [run for run in runs if shard_of(run) in self._leases.shards]
            await self._holder.load(mine)
            parked = [run for run in mine if await self._resume(run)]
            if parked:
                # Nothing reaches them meanwhile, so that nobody knows better.
                await self._session.fetch(self._park, (parked, self._holder.node_id))

    async def look(self) -> None:
        """Take in what came from outside, if anything did: one statement where nothing has."""
        self._inbox.take_up()
        asked = (*self._inbox.asked(sorted(self._leases.known)), *self._assignments.asked())
        letters, assigned = (await self._session.fetch(self._anything, asked))[0]
        if letters or self._inbox.has_useless:
            await self.read_inbox()
        else:
            self._inbox.exhausted()
        if assigned or self._assignments:
            await self._assignments.take_up()
        else:
            self._assignments.exhausted()

    async def read_inbox(self) -> None:
        """Hand the rows of the inbox to their runs."""
        while True:
            async with self.lock:
                letters = await self._inbox.read(sorted(self._leases.known))
                handed = 0
                try:
                    await self._holder.load([letter.run for letter in letters])
                    for letter in letters:
                        await self._hand(letter)
                        handed += 1
                finally:
                    self._inbox.hand_again([letter.id for letter in letters[handed:]])
                    self._holder.rest(letter.run for letter in letters)
            if not letters:
                return
            await self._appender.drain()

    async def fire_timers(self) -> None:
        """Tell every run whose timer is due."""
        while True:
            async with self.lock:
                at = self._now()
                timers = await self._timers.due(sorted(self._leases.known), at)
                await self._holder.load([timer.run for timer in timers])
                for timer in timers:
                    await self._fire(timer)
            if not timers:
                await self._timers.arm(sorted(self._leases.known), at)
                return
            await self._appender.drain()

    async def settle_dispatch(self) -> None:
        """Find nodes for what waits for one, and take back what nodes that died had to execute."""
        if not self._dispatch.has_work:
            return
        await self._dispatch.look(self._leases.shards)
        if self._leases.may_judge and (dead := await self._dispatch.lost()):
            # They can record nothing any more: what they had ended by then is in the inbox.
            await self.read_inbox()
            async with self.lock:
                for lost in await self._dispatch.revoke(self._dispatch.lost_with(dead)):
                    await self._end(lost, c.InterruptAttempt)

    async def cancel_away(self, run: UUID, tasks: Iterable[tuple[str, int]], grace: float) -> None:
        """Ask other nodes for the end of ``tasks`` of a run that stops; after ``grace`` seconds take them back."""
        await patiently(partial(self._dispatch.cancel_run, run))
        await asyncio.sleep(grace)
        await patiently(partial(self._take_back, run, [Attempted(run, *task) for task in tasks]))

    async def _take_back(self, run: UUID, attempts: Sequence[Attempted]) -> None:
        async with self.lock:
            if shard_of(run) in self._leases.shards:
                for late in await self._dispatch.revoke(attempts):
                    await self._end(late, c.CancelAttempt)

    async def _end(self, attempt: Attempted, how: type[c.InterruptAttempt] | type[c.CancelAttempt]) -> None:
        # It is forgotten last: a run that cannot be read now is looked at again.
        held = await self._holder.get(attempt.run)
        self._dispatch.ended(*attempt)
        held.tell(how(at=self._now(), task_id=attempt.task_id, attempt=attempt.attempt))

    async def _fire(self, timer: Timer) -> None:
        try:
            run = await self._holder.get(timer.run)
            command = self._holder.told_by(timer, run.state)
            if run.is_busy or _concerns(run.state, command):
                run.tell(command)
            else:
                self._holder.idle(run)
                await self._timers.delete(timer)
        except LogError:
            raise
        except Exception:
            # One run that cannot be read shall not hold up everybody's timers.
            log.exception("a timer cannot be told to its run", run=str(timer.run), timer=timer.timer)

    async def _resume(self, run: UUID) -> bool:
        """True: it is parked."""
        try:
            return await self._holder.resume(run)
        except LogError:
            raise
        except Exception:
            # One run that cannot be read shall not keep the others from going on.
            log.exception("a run cannot be resumed", run=str(run))
            return False

    async def _hand(self, letter: Letter) -> None:
        try:
            if letter.kind == "started":
                await self._resume(letter.run)
                self._inbox.discard([letter.id])
                self._timers.look(old=False)
            elif letter.kind == "schedule":
                self._inbox.discard([letter.id])
                self._schedules.set()
            elif letter.kind in COMMANDS:
                await self._command(letter)
            else:
                command = await self._inbox.command(letter, self._now())
                run = await self._holder.get(letter.run)
                if isinstance(command, c.AttemptEnd):
                    # Not before the run is there: who loads it asks what is still under way.
                    self._dispatch.ended(letter.run, command.task_id, command.attempt)
                run.tell(command, letter.id)
        except LogError:
            raise
        except VaultError as error:
            log.error("an inbox row waits for a key", run=str(letter.run), row=letter.id, reason=str(error))
            self._inbox.postpone(letter)
        except Exception:
            # One row that cannot be read shall not hold up the others.
            log.exception("an inbox row cannot be handed to its run", run=str(letter.run), row=letter.id)

    async def _command(self, letter: Letter) -> None:
        # Asked before the run is looked for: it may be started in between.
        is_to_come = await self._inbox.is_to_come(letter.run)
        try:
            run = await self._holder.get(letter.run)
        except UnknownRun:
            if is_to_come:
                self._inbox.postpone(letter)
            else:
                log.warning("a command is for a run that does not exist", run=str(letter.run), command=letter.kind)
                self._inbox.discard([letter.id])
            return
        run.tell(await self._inbox.command(letter, self._now()), letter.id)


def _concerns(state: RunState, command: c.RunCommand) -> bool:
    """Whether anything follows from ``command``. What cannot be decided does: its run fails of it."""
    try:
        return bool(advance(state, command)[0])
    except Exception:
        return True

"""A node's duty: to start the runs of the schedules in its shards.

A time's run has an id computed from schedule and time, and it is started before what came of the time is recorded:
who dies in between leaves a run, which the next one finds and records. Rows are the truth; what is held in memory is
when to look next.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from perdure_engine.facts import ScheduleFact, ScheduleFired, ScheduleSet, decode_fact, encode_fact
from perdure_engine.identity import run_for_time
from perdure_engine.registry import Registration, Registry, UnknownWorkflow
from perdure_engine.run import new_run
from perdure_engine.run.commands import StartRun
from perdure_engine.run.events import RunEvent
from perdure_engine.run.state import RunState
from perdure_engine.schedules.inputs import input_for
from perdure_engine.schedules.policy import Plan, Record, Seen, Start, asks, decide
from perdure_engine.schedules.rows import Known, ScheduleRows, row_of
from perdure_engine.schedules.schedule import Schedule, evolve
from perdure_engine.staging import command_call
from perdure_engine.starting import WrongStart, start_command
from perdure_engine.work import OPEN_KEY
from perdure_eventstore.append import Append
from perdure_eventstore.appender import Appender
from perdure_eventstore.errors import AppendRefused, Conflict, LogError
from perdure_eventstore.events import Head
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session
from perdure_eventstore.vault.errors import VaultError

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

log = structlog.get_logger(__name__)

_SIDE_BY_SIDE = 100
_STEPS = 100
"""Of one schedule, before the others are looked at again."""
_LOOK = 1.0
"""Seconds between two looks whether a run that others wait for has ended."""
_SOON = 60.0
"""Seconds: what is due later is found by the look that comes in any case."""

StartTheRun = Callable[[RunState, StartRun], Awaitable[bool]]


class Firing:
    """Looks at what is due, or waits; ``fire`` is to be called again and again, and whenever ``wake`` is set."""

    def __init__(
        self,
        session: Session,
        appender: Appender,
        registry: Registry,
        schema: str,
        start_run: StartTheRun,
        shards: Callable[[], Collection[int]],
        vault: "Vault | None" = None,
    ) -> None:
        """``start_run`` starts a run and returns once that is recorded; ``shards`` are those leased now."""
        self.wake = asyncio.Event()
        self._session, self._appender, self._registry, self._schema = session, appender, registry, schema
        self._start_run, self._shards = start_run, shards
        self._rows, self._reader = ScheduleRows(session, schema), Reader(session, schema, vault)
        self._at = datetime.min.replace(tzinfo=UTC)
        """The present, by the database's clock: this machine's may be wrong, and may be set."""
        self._active: dict[str, Registration] = {}
        self._waited_for: set[UUID] = set()

    def told(self, run: UUID, _events: Sequence[RunEvent], state: RunState) -> None:
        """A ``holder.Listener``: the end of a run may be what another waits for."""
        if state.is_ended and run in self._waited_for:
            self.wake.set()

    async def fire(self) -> None:
        """Do all that can be done now, and see to it that ``wake`` is set when there is more. Raises LogError."""
        shards, begun = sorted(self._shards()), asyncio.get_running_loop().time()
        at = self._at = await self._rows.now()
        due = await self._rows.due(shards, at)
        self._waited_for = set()
        if due:
            versions = await self._registry.versions()
            self._active = {each.workflow_id: each for each in versions if each.retired_at is None}
        for n in range(0, len(due), _SIDE_BY_SIDE):
            some = due[n : n + _SIDE_BY_SIDE]
            started = await self._rows.started(
                [run_for_time(each.schedule.id, time) for each in some for time, _ in asks(each.schedule, at)]
            )
            await asyncio.gather(*(self._guarded(each, started) for each in some))
        await self._arm(shards, at, begun)

    async def _arm(self, shards: Sequence[int], at: datetime, begun: float) -> None:
        """Wake for the earliest of what was not due at ``at``, which it was when this loop's clock said ``begun``."""
        next_due, loop = await self._rows.next_due(shards, at), asyncio.get_running_loop()
        seconds = _SOON if next_due is None else (next_due - at).total_seconds()
        if self._waited_for:
            seconds = min(seconds, _LOOK)
        if seconds < _SOON:
            loop.call_at(begun + seconds, self.wake.set)

    async def _guarded(self, known: Known, started: Collection[UUID]) -> None:
        """One schedule that cannot be worked shall not hold up the others."""
        try:
            await self._work(known, started)
        except LogError:
            raise
        except VaultError as error:
            log.error("a schedule waits for a key", schedule=known.schedule.name, reason=str(error))
        except Exception:
            log.exception("a schedule cannot be worked, it will be tried again", schedule=known.schedule.name)

    async def _work(self, known: Known, started: Collection[UUID]) -> None:
        schedule = known.schedule.id
        for _ in range(_STEPS):
            if not await self._step(known, started):
                break
            found = await self._rows.get(schedule)
            if found is None:
                return
            known = found
            times = asks(known.schedule, self._at)
            started = await self._rows.started([run_for_time(schedule, time) for time, _ in times])
        else:
            self.wake.set()
        if known.schedule.has_more and known.schedule.last_run is not None:
            self._waited_for.add(known.schedule.last_run)

    async def _step(self, known: Known, started: Collection[UUID]) -> bool:
        """Take the next step. False: there is none but to wait."""
        schedule = known.schedule
        run_of = partial(run_for_time, schedule.id)
        there = frozenset(time for time, _ in asks(schedule, self._at) if run_of(time) in started)
        match decide(schedule, Seen(self._at, known.is_open, there)):
            case None:
                return False
            case Start(due, turn):
                facts: Sequence[ScheduleFact] = [await self._start(schedule, Start(due, turn), due in there)]
            case Plan() as plan:
                runs = await self._rows.started([run_of(due) for due in plan.due])
                facts = plan.without(frozenset(due for due in plan.due if run_of(due) in runs)).facts
            case Record(facts, cancel):
                if cancel and schedule.last_run is not None:
                    await self._cancel(schedule, schedule.last_run)
        return await self._record(known, facts)

    async def _record(self, known: Known, facts: Sequence[ScheduleFact]) -> bool:
        """Append ``facts``. False: nothing is left to be done at once."""
        schedule: Schedule | None = known.schedule
        for number, fact in enumerate(facts, known.head.version + 1):
            schedule = evolve(schedule, fact, known.schedule.id, number)
        append = Append(
            known.schedule.id,
            Head(*known.head),
            [encode_fact(fact) for fact in facts],
            row_of(known.schedule.id, schedule, tell=False),
        )
        try:
            await self._appender.append(append)
        except Conflict:
            # It was changed meanwhile, or another node was first: see what it is now.
            return True
        return schedule is not None and (schedule.has_more or schedule.next_due <= self._at)

    async def _start(self, schedule: Schedule, step: Start, is_there: bool) -> ScheduleFired:
        """Start the run, and say what came of it."""
        run, reason = run_for_time(schedule.id, step.due), ""
        try:
            # One that is there was started by this schedule: what it would be refused for by now came later.
            if not is_there:
                await self._begin(schedule, run, step.due)
        except (LogError, VaultError) as error:
            if not isinstance(error, AppendRefused):
                raise
            keyed = f"a run of {schedule.workflow_id} with its key is open"
            reason = keyed if error.constraint == OPEN_KEY else f"the database refused it: {error}"
        except (WrongStart, UnknownWorkflow) as error:
            reason = str(error)
        except Exception as error:
            log.exception("a scheduled run cannot be started", schedule=schedule.name, due=step.due.isoformat())
            reason = f"it cannot be started: {type(error).__name__}; the node's log says more"
        if reason:
            log.warning("a scheduled run is not started", schedule=schedule.name, due=step.due.isoformat(), why=reason)
        return ScheduleFired(
            due=step.due,
            turn=step.turn,
            outcome="refused" if reason else "started",
            run=None if reason else run,
            reason=reason,
            next_due=schedule.times.after(step.due) if step.turn == "clock" else None,
        )

    async def _begin(self, schedule: Schedule, run: UUID, due: datetime) -> None:
        active = self._active.get(schedule.workflow_id)
        if active is None:
            raise UnknownWorkflow(schedule.workflow_id, sorted(self._active))
        definition = await self._registry.definition(active.digest)
        given = await self._given(schedule)
        input_ = input_for(schedule, given.payload, due)
        command = start_command(definition, self._at, input_, given.event, given.key)
        await self._start_run(new_run(definition, run), command)

    async def _given(self, schedule: Schedule) -> ScheduleSet:
        """The event that has its input and key."""
        async for recorded in self._reader.stream(schedule.id, after=schedule.set_by - 1, batch=1):
            fact: ScheduleSet = decode_fact(recorded)
            return fact
        raise WrongStart(f"version {schedule.set_by} of its stream, which has its input, is not there")

    async def _cancel(self, schedule: Schedule, run: UUID) -> None:
        call = command_call(run, "cancel", f"schedule {schedule.name} is due again")
        await self._session.fetch(call.sql(self._schema, lambda _: "%s"), call.values)

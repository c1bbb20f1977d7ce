"""Where scheduled tasks begin: in a slot of this node, or on another node that has their type."""

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID

from perdure_engine.definitions.definition import TaskSpec
from perdure_engine.dispatch import Choice, Dispatch
from perdure_engine.held_run import HeldRun
from perdure_engine.identity import shard_of
from perdure_engine.leases import Leases
from perdure_engine.limits import Permits, Rate, Rates
from perdure_engine.run import events as e
from perdure_engine.run.commands import BeginAttempt
from perdure_engine.run.state import RunState
from perdure_engine.slots import Slots
from perdure_engine.task_types import TaskTypes
from perdure_engine.waits import Wait, Waits


class Placement:
    """Implements ``owner.Placement``."""

    def __init__(
        self,
        node: UUID,
        slots: Slots,
        dispatch: Dispatch,
        types: TaskTypes,
        leases: Leases,
        permits: Permits,
        rates: Rates,
    ) -> None:
        self._permits, self._rates = permits, rates
        self.slots, self.dispatch = slots, dispatch
        self._node, self._types, self._leases = node, types, leases
        self._waits = Waits()
        self._closed = self._pumping = False
        dispatch.begin, dispatch.spread, dispatch.is_full = self._begin_away, self._spread, lambda: slots.waiting > 0
        dispatch.wants = self._waits.wants
        self._restrict()

    def close(self) -> None:
        """Begin no more attempts."""
        self._closed = True

    def take(self, run: HeldRun, state: RunState, task_id: str) -> BeginAttempt | None:
        """Take a slot for a task scheduled in ``state``, or have it begin when there is one and its limits allow."""
        task = state.task(task_id)
        if self._closed or self._waits.holds(run, task_id, task.attempt):
            return None
        spec = run.state.definition.tasks[task_id]
        type_ = self._types.find(spec.type)
        if type_ and type_.rate is None and spec.concurrency is None and self.slots.take_free(spec.type):
            # As nearly always: nothing of what waiting takes is made.
            return self._here(spec)
        wait = Wait(run, task_id, task.attempt)
        if spec.concurrency is None or task.concurrency_key is None:
            begin = self._find_place(spec, wait)
        else:
            begin, asked = None, (task.concurrency_key, spec.concurrency.limit, run.run_id, task_id)
            self._permits.ask(*asked, partial(self._permitted, wait), partial(self._waits.wants, wait))
        if begin is None:
            self._waits.add(wait)
        return begin

    def withdraw(self, run: UUID) -> None:
        """Nothing of the run is to begin, until it asks anew."""
        for wait in self._waits.withdraw(run):
            if wait.has_permit:
                self._permits.give_back(run, wait.task_id)

    def _find_place(self, spec: TaskSpec, wait: Wait) -> BeginAttempt | None:
        if spec.type not in self._types:
            choice = self.dispatch.take(wait, spec.type)
            return None if choice is None else self._away(spec, choice)
        if not self.admit(spec, wait.run.run_id, partial(self._begin, wait), partial(self._begin_away, wait)):
            return None
        return self._here(spec)

    def admit(
        self,
        spec: TaskSpec,
        run: UUID | None,
        begin: Callable[[], None],
        move: Callable[[Choice], None] | None = None,
    ) -> bool:
        """Take a slot of this node's, or have ``begin`` called with one, at the rate of the task's type.

        Or have ``move`` called, with another node that has room. ``run`` is the task's run, if that is held here.
        """
        type_ = self._types.find(spec.type)
        if type_ is not None and type_.rate is not None:
            rated = _Rated(spec, type_.rate, run, begin, monotonic())
            if self._rates.has_queue(spec.type):
                self._rates.postpone(spec.type, rated.rate, run, partial(self._find_slot, rated))
            else:
                self._find_slot(rated)
            return False
        is_taken = self.slots.take(spec.type, spec.priority, run, begin, move)
        if not is_taken and move is not None and self.slots.free <= 0:
            self.dispatch.overflow()
        return is_taken

    def give_back(self, run: HeldRun, begun: Sequence[BeginAttempt]) -> None:
        """Return the slots and the permits of attempts that do not begin."""
        if not begun:
            return
        tasks = run.state.definition.tasks
        for begin in begun:
            # One that began already, and was to begin again, needs its permit.
            if tasks[begin.task_id].concurrency and run.state.task(begin.task_id).status != "started":
                self._permits.give_back(run.run_id, begin.task_id)
        self.leave(run, begun)

    def leave(self, run: HeldRun, begun: Sequence[BeginAttempt]) -> None:
        """Return the slots of attempts that do not begin here; their permits are for the run's next owner."""
        for begin in begun:
            if begin.node == self._node:
                self.slots.give_back(run.state.definition.tasks[begin.task_id].type)
        self.dispatch.give_back(begin for begin in begun if begin.node != self._node)
        self.pump()

    def forget(self, whether: Callable[[UUID], bool]) -> None:
        """The runs of which ``whether`` is true are another node's."""
        self._waits.forget(whether)
        self.slots.forget(whether)
        self._permits.forget(whether)
        self._rates.forget(whether)
        self.dispatch.forget(whether)

    def free(self, type_: str) -> None:
        """An attempt of this type ended here."""
        self.slots.give_back(type_)
        self.pump()

    def assigned(self, run: HeldRun, events: Sequence[e.RunEvent]) -> list[dict[str, Any]]:
        """The rows of attempts in ``events`` that other nodes are to execute."""
        return [
            self.assignment(run, event.task_id, event.attempt, event.node, _scheduled_at(run, events, event.task_id))
            for event in events
            if isinstance(event, e.TaskStarted) and event.node != self._node
        ]

    def assignment(
        self, run: HeldRun, task_id: str, attempt: int, node: UUID, scheduled: int | None = None
    ) -> dict[str, Any]:
        """A row: ``node`` executes an attempt for the owner of the run."""
        return {
            "run": run.run_id, "task_id": task_id, "attempt": attempt, "shard": shard_of(run.run_id), "node": node,
            "token": self._leases.fencing_token(run.run_id), "digest": run.state.definition.digest,
            "scheduled": scheduled, "failures": run.state.task(task_id).failures,
        }  # fmt: skip

    def types_changed(self) -> None:
        """A task type was added: whatever waited for another node may begin here."""
        self._restrict()
        for wait in self.dispatch.not_needed(self._types.names()):
            self._go_on(wait)

    def _begin_away(self, wait: Wait, choice: Choice) -> None:
        """Another node has room for a task that waited."""
        begin = self._away(wait.run.state.definition.tasks[wait.task_id], choice)
        if self._waits.end(wait):
            wait.run.tell(begin)
        else:
            self.dispatch.give_back([begin])

    def pump(self) -> None:
        """Begin what waits, where slots are free."""
        # A task that cannot begin any more gives its slot back at once: that is this loop's next round, not a
        # deeper call.
        if self._pumping:
            return
        self._pumping = True
        try:
            while (place := self.slots.next()) is not None:
                place.begin()
        finally:
            self._pumping = False

    def _spread(self) -> None:
        """Have other nodes begin what waits for a slot of this one, as far as they have room."""
        if self._closed or self.slots.free > 0:
            # Who waits for the limit of a type alone goes on waiting: how full that is elsewhere is not known.
            return
        for type_ in self.slots.movable():
            while type_ in self.slots.movable() and (choice := self.dispatch.choose(type_)) is not None:
                self.slots.moved(type_)(choice)

    def _permitted(self, wait: Wait) -> None:
        if self._waits.wants(wait):
            wait.has_permit = True
            self._go_on(wait)
        else:
            # Withdrawn while it was asked for. If its run asks anew, that comes after this.
            self._permits.give_back(wait.run.run_id, wait.task_id)

    def _go_on(self, wait: Wait) -> None:
        if not self._waits.wants(wait):
            return
        begin = self._find_place(wait.run.state.definition.tasks[wait.task_id], wait)
        if begin is not None and self._waits.end(wait):
            wait.run.tell(begin)

    def _find_slot(self, rated: "_Rated") -> None:
        """The leave of a rate counts from the moment it is given: so a slot is there first."""
        spec = rated.spec
        if self.slots.take(spec.type, spec.priority, rated.run, partial(self._ask_leave, rated), since=rated.since):
            self._ask_leave(rated)

    def _ask_leave(self, rated: "_Rated") -> None:
        """With a slot, which goes back if there is no leave now."""
        type_, find_slot = rated.spec.type, partial(self._find_slot, rated)
        if self._rates.is_closed(type_):
            self._rates.postpone(type_, rated.rate, rated.run, find_slot)
            self.free(type_)
        else:
            self._rates.ask(type_, rated.rate, rated.run, rated.begin, partial(self.free, type_), find_slot)

    def _begin(self, wait: Wait) -> None:
        """With a slot."""
        spec = wait.run.state.definition.tasks[wait.task_id]
        if self._waits.end(wait):
            wait.run.tell(self._here(spec))
        else:
            self.free(spec.type)

    def _here(self, spec: TaskSpec) -> BeginAttempt:
        type_ = self._types.find(spec.type)
        delivery = spec.delivery or (None if type_ is None else type_.delivery)
        once = delivery == "at_most_once"
        return BeginAttempt(task_id=spec.task_id, node=self._node, at_most_once=once)

    def _away(self, spec: TaskSpec, choice: Choice) -> BeginAttempt:
        once = choice.at_most_once if spec.delivery is None else spec.delivery == "at_most_once"
        return BeginAttempt(task_id=spec.task_id, node=choice.node, at_most_once=once)

    def _restrict(self) -> None:
        for name, type_ in self._types.items():
            self.slots.restrict(name, type_.limit)


class _Rated(NamedTuple):
    """A task whose type has a rate, and that has waited ``since`` then, by ``time.monotonic``."""

    spec: TaskSpec
    rate: Rate
    run: UUID | None
    begin: Callable[[], None]
    since: float


def _scheduled_at(run: HeldRun, events: Sequence[e.RunEvent], task_id: str) -> int | None:
    """The version of the event with the task's inputs, if it is among those that are appended now."""
    for version, event in enumerate(events, run.head.version + 1):
        if isinstance(event, e.TaskScheduled | e.TaskDelayed) and event.task_id == task_id and event.inputs is not None:
            return version
    return None

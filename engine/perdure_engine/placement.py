"""Where scheduled tasks begin: in a slot of this node, or on another node that has their type."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from perdure_engine.definitions.definition import TaskSpec
from perdure_engine.dispatch import Choice, Dispatch
from perdure_engine.held_run import HeldRun
from perdure_engine.identity import shard_of
from perdure_engine.leases import Leases
from perdure_engine.limits import Permits, Rates
from perdure_engine.run import events as e
from perdure_engine.run.commands import BeginAttempt
from perdure_engine.run.state import RunState
from perdure_engine.slots import Slots
from perdure_engine.task_types import TaskTypes


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
        self._closed = self._pumping = False
        dispatch.begin, dispatch.spread, dispatch.is_full = self._begin_away, self._spread, lambda: slots.waiting > 0
        self._restrict()

    def close(self) -> None:
        """Begin no more attempts."""
        self._closed = True

    def take(self, run: HeldRun, state: RunState, task_id: str) -> BeginAttempt | None:
        """Take a slot for a task scheduled in ``state``, or have it begin when there is one and its limits allow."""
        if self._closed:
            return None
        spec = run.state.definition.tasks[task_id]
        if spec.concurrency is not None and (key := state.task(task_id).concurrency_key) is not None:
            permitted = partial(self._permitted, run, task_id)
            self._permits.ask(key, spec.concurrency.limit, run.run_id, task_id, permitted)
            return None
        return self._find_place(run, task_id)

    def _find_place(self, run: HeldRun, task_id: str) -> BeginAttempt | None:
        spec = run.state.definition.tasks[task_id]
        if spec.type not in self._types:
            choice = self.dispatch.take(run, task_id, spec.type)
            return None if choice is None else self._away(spec, choice)
        move = partial(self._begin_away, run, task_id)
        if not self.admit(spec, run.run_id, partial(self._begin, run, task_id), move):
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
        if type_ is None or (rate := type_.rate) is None:
            is_taken = self.slots.take(spec.type, spec.priority, run, begin, move)
            if not is_taken and move is not None and self.slots.free <= 0:
                self.dispatch.overflow()
            return is_taken
        # What has the rate's leave begins here: another node would ask for it again.
        self._rates.ask(spec.type, rate, run, partial(self._rated, spec, run, begin))
        return False

    def give_back(self, run: HeldRun, begun: Sequence[BeginAttempt]) -> None:
        """Return the slots of attempts that do not begin."""
        if not begun:
            return
        tasks = run.state.definition.tasks
        for begin in begun:
            if begin.node == self._node:
                self.slots.give_back(tasks[begin.task_id].type)
            # One that began already, and was to begin again, needs its permit.
            if tasks[begin.task_id].concurrency and run.state.task(begin.task_id).status != "started":
                self._permits.give_back(run.run_id, begin.task_id)
        self.dispatch.give_back(begin for begin in begun if begin.node != self._node)
        self.pump()

    def forget(self, whether: Callable[[UUID], bool]) -> None:
        """The runs of which ``whether`` is true are another node's."""
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
        for run, task_id in self.dispatch.not_needed(self._types.names()):
            if (begin := self._find_place(run, task_id)) is not None:
                run.tell(begin)

    def _begin_away(self, run: HeldRun, task_id: str, choice: Choice) -> None:
        """Another node has room for a task that waited."""
        run.tell(self._away(run.state.definition.tasks[task_id], choice))

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

    def _permitted(self, run: HeldRun, task_id: str) -> None:
        if (begin := self._find_place(run, task_id)) is not None:
            run.tell(begin)

    def _rated(self, spec: TaskSpec, run: UUID | None, begin: Callable[[], None]) -> None:
        if self.slots.take(spec.type, spec.priority, run, begin):
            begin()

    def _begin(self, run: HeldRun, task_id: str) -> None:
        run.tell(self._here(run.state.definition.tasks[task_id]))

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


def _scheduled_at(run: HeldRun, events: Sequence[e.RunEvent], task_id: str) -> int | None:
    """The version of the event with the task's inputs, if it is among those that are appended now."""
    for version, event in enumerate(events, run.head.version + 1):
        if isinstance(event, e.TaskScheduled | e.TaskDelayed) and event.task_id == task_id and event.inputs is not None:
            return version
    return None

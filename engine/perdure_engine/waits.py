"""Tasks of this node's runs that are to begin, and wait: for a permit, for the leave of a rate, for a slot, for a node.

What waits is known in one place, by run and task, and the queues hold no more than that: one that was withdrawn, or
whose run asked anew, is passed over when its turn comes.
"""

from collections.abc import Callable
from uuid import UUID

from perdure_engine.held_run import HeldRun


class Wait:
    """A scheduled attempt that waits to begin."""

    __slots__ = ("attempt", "has_permit", "run", "task_id")

    def __init__(self, run: HeldRun, task_id: str, attempt: int) -> None:
        self.run, self.task_id, self.attempt = run, task_id, attempt
        self.has_permit = False
        """Of those of its key."""


class Waits:
    """Who waits. At most one wait for each task."""

    def __init__(self) -> None:
        self._of: dict[UUID, dict[str, Wait]] = {}

    def holds(self, run: HeldRun, task_id: str, attempt: int) -> bool:
        """Whether this attempt waits already."""
        if not self._of:
            return False
        wait = self._of.get(run.run_id, {}).get(task_id)
        return wait is not None and wait.run is run and wait.attempt == attempt

    def add(self, wait: Wait) -> None:
        """It waits, in place of what waited for its task before."""
        self._of.setdefault(wait.run.run_id, {})[wait.task_id] = wait

    def wants(self, wait: Wait) -> bool:
        """Whether it still waits."""
        return self._of.get(wait.run.run_id, {}).get(wait.task_id) is wait

    def end(self, wait: Wait) -> bool:
        """It waits no more; False if it did not any more."""
        if not self.wants(wait):
            return False
        mine = self._of[wait.run.run_id]
        del mine[wait.task_id]
        if not mine:
            del self._of[wait.run.run_id]
        return True

    def withdraw(self, run: UUID) -> list[Wait]:
        """Nothing of ``run`` waits any more; what waited."""
        return list(self._of.pop(run, {}).values()) if self._of else []

    def forget(self, whether: Callable[[UUID], bool]) -> None:
        """The runs of which ``whether`` is true are another node's."""
        self._of = {run: mine for run, mine in self._of.items() if not whether(run)}

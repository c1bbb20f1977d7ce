"""What the working set must hold of a run that is open: what ``work_of`` says of its events, one after another."""

from datetime import datetime
from typing import Any
from uuid import UUID

from perdure_engine.doctor.faults import Row
from perdure_engine.run import events as e
from perdure_engine.work import Rows, work_of

_DEADLINE = "deadline"


class Expected:
    """Fold a run's events with ``take``. Rows are kept by what tells them apart within a run: a timer, a trigger."""

    def __init__(self, run: UUID) -> None:
        self.run = run
        self.rows: dict[str, dict[Any, Row]] = {"open_runs": {}, "timers": {}, "waits": {}}
        self.under_way: dict[str, tuple[int, UUID]] = {}
        """The attempt of each task that is under way, and the node it is on."""
        self.active: set[str] = set()
        """The tasks that are scheduled or under way."""
        self.digest = ""
        """Its definition."""
        self.event_id: UUID | None = None
        """The event that started it."""
        self.is_keyed = False
        self.has_key = False
        """Whether its key could be read."""

    def take(self, event: e.RunEvent, position: int) -> None:
        """Take in the next event."""
        self.put(work_of(self.run, [event], paused=self.is_paused), position)
        self._count(event)
        match event:
            case e.RunStarted():
                self.digest, self.event_id, self.is_keyed = event.digest, event.event_id, event.keyed
            case e.TaskStarted():
                self.under_way[event.task_id] = event.attempt, event.node
            case e.TaskCompleted() | e.TaskFailed() | e.TaskTimedOut() | e.TaskInterrupted() | e.TaskCancelled() if (
                self.under_way.get(event.task_id, (None,))[0] == event.attempt
            ):
                del self.under_way[event.task_id]

    def _count(self, event: e.RunEvent) -> None:
        match event:
            case e.TaskScheduled():
                self.active.add(event.task_id)
            case e.TaskCompleted() | e.TaskFailed() | e.TaskTimedOut() | e.TaskCancelled():
                self.active.discard(event.task_id)

    @property
    def is_paused(self) -> bool:
        """Whether the run is paused."""
        return any(row["paused"] for row in self.rows["open_runs"].values())

    @property
    def is_parked(self) -> bool:
        """Whether no node has to look at the run."""
        return not self.active or (self.is_paused and not self.under_way)

    def say_key(self, key: str | None) -> None:
        """The run's key, which is payload and was read apart."""
        self.has_key = key is not None
        for row in self._with_key():
            row["key"] = key

    def found_key(self, key: str | None) -> None:
        """One that cannot be read is whatever a row says."""
        if self.is_keyed and not self.has_key and key is not None:
            self.say_key(key)

    def due(self, now: datetime) -> list[str]:
        """The timers that may have fired, and been deleted because nothing came of it."""
        return [timer for timer, row in self.rows["timers"].items() if row["due"] <= now and not row["held"]]

    def _with_key(self) -> list[Row]:
        return [*self.rows["open_runs"].values(), *self.rows["waits"].values()]

    def put(self, work: Rows, position: int) -> None:
        """Write what an append does. As ``write_work`` in the migrations does it."""
        opened, timers, waits = self.rows["open_runs"], self.rows["timers"], self.rows["waits"]
        for row in work.get("opened", ()):
            opened[None] = {"paused": False, "parked": False, **_without(row, "run"), "started_at": position}
        for row in work.get("paused", ()):
            for each in opened.values():
                each["paused"] = row["paused"]
            for timer, each in timers.items():
                each["held"] = row["paused"] if timer != _DEADLINE else each["held"]
        for row in work.get("timers", ()):
            timers[row["timer"]] = {"held": False, **_without(row, "run", "timer")}
        for row in work.get("cleared", ()):
            timers.pop(row["timer"], None)
        for row in work.get("waits", ()):
            waits[row["trigger"]] = {**_without(row, "run", "trigger"), "armed_at": position}
        for row in work.get("disarmed", ()):
            waits.pop(row["trigger"], None)


def _without(row: Row, *columns: str) -> Row:
    return {column: value for column, value in row.items() if column not in columns}

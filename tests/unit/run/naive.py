"""The rules once more, the slow way: every condition is evaluated anew from the document and what was recorded.

Shares nothing with the core but its event types. ``Checker.see`` is told each event, ``Checker.settled`` asks whether
anything is left undone.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from perdure_engine.run import RunState
from perdure_engine.run import events as e

ENDED = ("completed", "failed", "skipped", "cancelled")
UNDER_WAY = ("scheduled", "started", "retrying", "interrupted")


class End(NamedTuple):
    """``task.on``; ``task`` None is any completion."""

    task: str | None
    on: str


class Event(NamedTuple):
    """An event trigger; ``entry`` if it counts for the starting event only."""

    name: str
    where: str | None
    within: float | None
    entry: bool


class Checker:
    """What is known of a run, in plain words."""

    def __init__(self, document: dict[str, Any], payloads: Mapping[UUID, Any]) -> None:
        """``payloads`` are those of the events that were published, by id; it may grow."""
        self.tasks: dict[str, dict[str, Any]] = {task["task_id"]: task for task in document["tasks"]}
        self.fail_fast = document.get("fail_fast", False)
        self.output = document.get("output")
        self.entries = self._entries(document)
        self.clauses = {task_id: self._clauses(task_id) for task_id in self.tasks}
        self.triggers = list(dict.fromkeys(c for task_id in self.tasks for c in self._events_of(task_id)))
        self.payloads = payloads
        self.run = "new"
        self.outcome: str | None = None
        self.status = dict.fromkeys(self.tasks, "waiting")
        self.attempt = dict.fromkeys(self.tasks, 0)
        self.crashes = dict.fromkeys(self.tasks, 0)
        self.occurred: list[tuple[str, Any]] = []
        self.over: dict[Event, int] = {}

    # The document

    def _entries(self, document: dict[str, Any]) -> set[str]:
        if "start" in document:
            return set(document["start"])
        return {
            clause[0].name
            for task_id in self.tasks
            if self._is_root(task_id)
            for clause in self._written(task_id)
            if len(set(clause)) == 1 and isinstance(clause[0], Event)
        }

    def _is_root(self, task_id: str) -> bool:
        conditions = [condition for clause in self._written(task_id) for condition in clause]
        return all(isinstance(each, Event) and each.name != "task_completed" for each in conditions)

    def _written(self, task_id: str) -> list[list[End | Event]]:
        task = self.tasks[task_id]
        needed: list[End | Event] = [End(other, "completed") for other in task.get("depends_on", ())]
        items = [item["all"] if isinstance(item, dict) and "all" in item else [item] for item in task["triggers"]]
        return [needed + [_condition(each) for each in item] for item in items or [[]]]

    def _clauses(self, task_id: str) -> list[tuple[End | Event, ...]]:
        found: dict[frozenset[End | Event], tuple[End | Event, ...]] = {}
        for clause in self._written(task_id):
            conditions = tuple(
                each._replace(entry=self._is_root(task_id) and each.name in self.entries)
                if isinstance(each, Event)
                else each
                # Of two that are the same, the later one has the place.
                for each in reversed(dict.fromkeys(reversed(clause)))
            )
            found.setdefault(frozenset(conditions), conditions)
        return list(found.values())

    def _events_of(self, task_id: str) -> Iterator[Event]:
        return (each for clause in self.clauses[task_id] for each in clause if isinstance(each, Event))

    # Conditions

    def holds(self, condition: End | Event) -> bool:
        """Whether it has come true."""
        if isinstance(condition, Event):
            occurred = self.occurred[: self.over.get(condition, len(self.occurred))]
            return any(_matches(condition, *each) for each in (occurred[:1] if condition.entry else occurred))
        if condition.task is None:
            return "completed" in self.status.values()
        status = self.status[condition.task]
        let_pass = status == "failed" and self.tasks[condition.task].get("on_failure") == "continue"
        return {
            "done": status in ("completed", "skipped") or let_pass,
            "ended": status in ENDED,
        }.get(condition.on, status == condition.on)

    def is_dead(self, condition: End | Event) -> bool:
        """Whether it can no longer come true, whatever happens."""
        if self.holds(condition):
            return False
        if isinstance(condition, Event):
            return condition.entry or condition in self.over
        return condition.task is not None and self.status[condition.task] in ENDED

    def is_ready(self, task_id: str) -> bool:
        """Whether its trigger holds."""
        return any(all(map(self.holds, clause)) for clause in self.clauses[task_id])

    def never(self, task_id: str) -> bool:
        """Whether its trigger can no longer hold."""
        return all(any(map(self.is_dead, clause)) for clause in self.clauses[task_id])

    def live_waits(self) -> dict[int, int]:
        """How many clauses of waiting tasks wait for each event trigger."""
        live = [
            condition
            for task_id in self._of("waiting")
            for clause in self.clauses[task_id]
            if not any(map(self.is_dead, clause))
            for condition in clause
            if isinstance(condition, Event) and not self.holds(condition)
        ]
        return {number: live.count(each) for number, each in enumerate(self.triggers) if each in live}

    def unhandled(self) -> set[str]:
        """The failures that nothing has handled."""
        return {
            failed
            for failed in self._of("failed")
            if self.tasks[failed].get("on_failure") != "continue"
            and not any(self.status[handler] == "completed" for handler in self._handlers(failed))
        }

    def will_fail(self) -> bool:
        """Whether a failure can no longer be handled."""
        return any(all(self.status[each] in ENDED for each in self._handlers(failed)) for failed in self.unhandled())

    def _handlers(self, failed: str) -> list[str]:
        wanted = End(failed, "failed")
        return [task_id for task_id in self.tasks if any(wanted in clause for clause in self.clauses[task_id])]

    def _of(self, *statuses: str) -> list[str]:
        return [task_id for task_id, status in self.status.items() if status in statuses]

    def _waits_outside(self) -> bool:
        return any(self.triggers[number].name != "task_completed" for number in self.live_waits())

    def _at_rest(self) -> bool:
        return not self._of(*UNDER_WAY) and (self.will_fail() or not self._waits_outside())

    # What was recorded

    def see(self, event: e.RunEvent) -> None:
        """Check that ``event`` may happen now, and take it in."""
        match event:
            case e.RunStarted():
                assert self.run == "new"
                self.run = "open"
                self.occurred.append((event.event or "", event.input.value))
            case e.EventIgnored() | e.EventLatched():
                self._take_event(event)
            case e.WaitExpired():
                assert self.run == "open" and event.trigger in self.live_waits()
                self.over[self.triggers[event.trigger]] = len(self.occurred)
            case e.RunStopping():
                assert self.run == "open"
                self.run, self.outcome = "stopping", event.outcome
            case e.RunCompleted() | e.RunFailed() | e.RunCancelled() | e.RunTimedOut():
                self._end_run(event)
            case _:
                self._see_task(event)

    def _take_event(self, event: e.EventIgnored | e.EventLatched) -> None:
        if self.run == "open" and event.event_id is not None:
            self.occurred.append((event.event, self.payloads[event.event_id]))
        if isinstance(event, e.EventLatched):
            assert self.run == "open"
            live = [trigger for number, trigger in enumerate(self.triggers) if number in event.triggers]
            assert len(live) == len(event.triggers) and all(map(self.holds, live))

    def _end_run(self, event: e.RunEnded) -> None:
        assert self.run in ("open", "stopping"), "a run ends once"
        assert not self._of("waiting", *UNDER_WAY), "a run ends when its tasks have"
        expected: dict[str | None, type[Any]] = {"cancelled": e.RunCancelled, "timed_out": e.RunTimedOut}
        usual = e.RunFailed if self.unhandled() or self.outcome == "failed" else e.RunCompleted
        if usual is e.RunCompleted and self.outcome is None and self.output and self.status["t0"] != "completed":
            usual = e.RunFailed
        assert type(event) is expected.get(self.outcome, usual)
        if isinstance(event, e.RunFailed):
            assert set(event.tasks) == self.unhandled()
        self.run = "ended"

    def _see_task(self, event: Any) -> None:
        task_id = event.task_id
        before, attempt = self.status[task_id], self.attempt[task_id]
        assert before not in ENDED, "a task ends once"
        assert self.run in ("open", "stopping")
        match event:
            case e.TaskSkipped():
                assert before == "waiting"
                self._check_skip(event)
            case e.TaskScheduled():
                assert self.run == "open" and event.attempt == attempt + 1
                assert before in ("interrupted", "retrying") if attempt else before == "waiting"
                assert attempt or self.is_ready(task_id), f"{task_id} was scheduled, and its triggers do not hold"
            case e.TaskStarted():
                assert self.run == "open" and (before, attempt) == ("scheduled", event.attempt)
            case e.TaskCancelled():
                assert self.run == "stopping" and event.attempt == attempt and before in UNDER_WAY
            case e.TaskFailed(attempt=0):
                assert self.run == "open" and before == "waiting" and self.is_ready(task_id)
                assert "when" in self.tasks[task_id] or "inputs" in self.tasks[task_id]
            case e.TaskFailed() if before == "interrupted":
                assert self.crashes[task_id] == 5
            case _:
                assert (before, attempt) == ("started", event.attempt)
        self._move(event)

    def _check_skip(self, event: e.TaskSkipped) -> None:
        if event.reason == "`when` is false":
            assert self.is_ready(event.task_id) and self.tasks[event.task_id]["when"] == "false"
        elif self.run == "open" and not self.never(event.task_id):
            assert self._at_rest(), f"{event.task_id} was skipped, and its triggers may still hold"
            assert self.will_fail() or not self.is_ready(event.task_id)

    def _move(self, event: Any) -> None:
        retried = getattr(event, "retry_at", None) is not None
        name = type(event).__name__.removeprefix("Task").lower()
        if name in ("failed", "timedout"):
            name = "retrying" if retried else "failed"
        if isinstance(event, e.TaskInterrupted):
            self.crashes[event.task_id] += not event.clean
        self.status[event.task_id] = name
        self.attempt[event.task_id] = getattr(event, "attempt", self.attempt[event.task_id])
        if isinstance(event, e.TaskCompleted) and self.run == "open":
            self.occurred.append(("task_completed", {"task_id": event.task_id, "output": event.output.value}))

    # What must be so once everything has followed

    def settled(self, state: RunState) -> None:
        """Check that nothing is left undone, and that the core counts as we do."""
        waiting = self._of("waiting")
        if self.run == "open":
            assert not [each for each in waiting if self.is_ready(each)], "a task is ready and was not scheduled"
            assert not [each for each in waiting if self.never(each)], "a task can never be ready and was not skipped"
            assert not self._at_rest(), "nothing can go on with this run, and it has not ended"
            assert not (self.fail_fast and self.will_fail()), "`fail_fast` did not stop the run"
        if self.run == "stopping":
            assert self._of("started"), "nothing is under way, and the run has not ended"
            assert not self._of("scheduled", "retrying")
        assert state.is_ended == (self.run == "ended")
        assert {each: state.task(each).status for each in self.tasks} == self.status
        assert {each: state.task(each).attempt for each in self.tasks} == self.attempt
        assert state.active == len(self._of(*UNDER_WAY))
        assert state.ended == len(self._of(*ENDED))
        assert set(state.unhandled) == self.unhandled()
        assert state.any_completed == ("completed" in self.status.values())
        assert dict(state.live_waits) == self.live_waits()


def _condition(written: Any) -> End | Event:
    if isinstance(written, dict):
        return Event(written["event"], written.get("where"), written.get("within"), False)
    if written == "task_completed":
        return End(None, "completed")
    task_id, _, on = written.partition(".")
    return End(task_id, on) if on else Event(written, None, None, False)


def _matches(trigger: Event, name: str, payload: Any) -> bool:
    if trigger.name != name:
        return False
    if trigger.where is None:
        return True
    words = trigger.where.split()
    if words[1] == ">":
        return "n" in payload and bool(payload["n"] > int(words[2]))
    return bool(payload["task_id"] == words[2].strip("'"))

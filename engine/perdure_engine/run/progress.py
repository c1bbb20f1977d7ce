"""A decision in the making: the events recorded so far, the state they lead to, and all that follows from them.

The end of a task touches the clauses that waited for it. A task with a clause that lacks nothing is ready: its guard
is asked, its inputs are resolved, it is scheduled. A task whose clauses are all dead is skipped, which is an end
again. When nothing is active and nothing can come any more, the run ends.
"""

from collections import deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import filterfalse

from perdure_engine.definitions.durations import parse_duration
from perdure_engine.definitions.names import ANY_COMPLETION, LONGEST_KEY
from perdure_engine.run import events as e
from perdure_engine.run.evolve import evolve
from perdure_engine.run.matching import matching_triggers
from perdure_engine.run.reasons import why_ignored, why_skipped, why_stopped
from perdure_engine.run.scope import run_scope
from perdure_engine.run.state import DEAD, ENDED, Occurrence, RunState, TaskState
from perdure_engine.templates import TemplateError
from perdure_eventstore.door import NULL, Json, PayloadRefused

TaskEnded = e.TaskCompleted | e.TaskFailed | e.TaskTimedOut | e.TaskSkipped | e.TaskCancelled


class Progress:
    """Records ``events`` and what follows. ``state`` is always the state after the last one recorded."""

    def __init__(self, state: RunState, at: datetime) -> None:
        self.state = state
        self._at = at
        self.events: list[e.RunEvent] = []
        self._touched: deque[tuple[str, Occurrence]] = deque()

    def record(self, event: e.RunEvent) -> None:
        """Record ``event``; nothing follows."""
        self.state = evolve(self.state, event)
        self.events.append(event)

    def finish(self) -> list[e.RunEvent]:
        """Everything recorded, once nothing follows any more and the run has ended if it must."""
        if self.events:
            self._settle()
            while self.state.status in ("open", "stopping") and self._conclude():
                self._settle()
        return self.events

    def end(self, event: TaskEnded) -> None:
        """Record the end of a task, and remember whom it touches."""
        first_completion = isinstance(event, e.TaskCompleted) and not self.state.any_completed
        self.record(event)
        definition, task_id = self.state.definition, event.task_id
        occurrence = _occurrence(event, self.state.task(task_id))
        self._touched.extend((d.task_id, occurrence) for d in definition.end_dependents.get(task_id, ()))
        if first_completion:
            self._touched.extend((d.task_id, occurrence) for d in definition.any_completion)
        if isinstance(event, e.TaskCompleted) and (listeners := definition.listeners.get(ANY_COMPLETION)):
            payload = Json(b'{"task_id":"' + task_id.encode() + b'","output":' + event.output.text + b"}")
            if self.state.status == "open":
                self._latch(listeners, Occurrence(ANY_COMPLETION, payload))

    def schedule(self, task_id: str, attempt: int, inputs: Json | None = None, key: str | None = None) -> None:
        """Record that an attempt may start, and by when it has to."""
        limit = self.state.definition.tasks[task_id].schedule_to_start
        start_by = None if limit is None else self._at + timedelta(seconds=limit)
        self.record(
            e.TaskScheduled(task_id=task_id, attempt=attempt, start_by=start_by, concurrency_key=key, inputs=inputs)
        )

    def follow_start(self) -> None:
        """After RunStarted: every task its triggers touched, and every one that needs nothing."""
        definition, start = self.state.definition, self.state.start
        self._touched.extend((task_id, start) for task_id in definition.roots)
        # In the order of the document: the same command makes the same events everywhere.
        self._touched.extend((task_id, start) for task_id in definition.tasks if task_id in self.state.tasks)

    def receive(self, event: Occurrence) -> None:
        """Latch an outside event, or record why it is ignored."""
        assert event.id is not None and event.name is not None
        listeners = self.state.definition.listeners.get(event.name, ())
        if self.state.status != "open" or not self._latch(listeners, event):
            reason = why_ignored(self.state, listeners)
            self.record(e.EventIgnored(event=event.name, event_id=event.id, reason=reason))

    def expire(self, trigger: int) -> None:
        """Record that a wait's time is over."""
        name = self.state.definition.events[trigger].name
        self.record(e.WaitExpired(trigger=trigger, event=name))
        self._touch_trigger((trigger,), self.state.start)

    def stop(self, outcome: e.Outcome, reason: str) -> None:
        """Let nothing start any more, and cancel what has not started."""
        self.record(e.RunStopping(outcome=outcome, reason=reason))
        for task_id in self.state.definition.tasks:
            task = self.state.task(task_id)
            if task.status in ("delayed", "scheduled", "retrying"):
                self.end(e.TaskCancelled(task_id=task_id, attempt=task.attempt))

    def _latch(self, listeners: Iterable[int], event: Occurrence) -> bool:
        candidates = [trigger for trigger in listeners if trigger in self.state.live_waits]
        triggers = matching_triggers(self.state.definition, candidates, event, self.state.input)
        if triggers:
            self.record(
                e.EventLatched(
                    event=event.name or "", event_id=event.id, key=event.key, triggers=triggers, payload=event.payload
                )
            )
            self._touch_trigger(triggers, event)
        return bool(triggers)

    def _touch_trigger(self, triggers: Iterable[int], event: Occurrence) -> None:
        for trigger in triggers:
            self._touched.extend((d.task_id, event) for d in self.state.definition.event_dependents[trigger])

    def _settle(self) -> None:
        """Schedule or skip whatever was touched, until nothing is left."""
        while self._touched:
            self._fail_fast()
            task_id, event = self._touched.popleft()
            task = self.state.task(task_id)
            if task.status != "waiting" or self.state.status != "open":
                continue
            if 0 in task.lacks:
                self._make_ready(task_id, event, task.lacks.index(0))
            elif task.lacks.count(DEAD) == len(task.lacks):
                self.end(e.TaskSkipped(task_id=task_id, reason=why_skipped(self.state, task_id)))

    def _make_ready(self, task_id: str, event: Occurrence, clause: int) -> None:
        spec = self.state.definition.tasks[task_id]
        if spec.fixed_inputs is not None:
            # A value of its own: handlers are given what it parses to, and may well change that.
            self.schedule(task_id, 1, Json(spec.fixed_inputs.text))
            return
        scope = run_scope(self.state, event, spec.clauses[clause].events)
        try:
            if spec.when is not None:
                guard = spec.when.evaluate(scope)
                if not isinstance(guard, bool):
                    raise _GuardError(f"`when` gave {Json.of(guard).text.decode()}, not true or false")
                if not guard:
                    self.end(e.TaskSkipped(task_id=task_id, reason="`when` is false"))
                    return
            inputs = None if spec.is_sleep else Json.of(spec.inputs.resolve(scope))
            delay = 0.0 if spec.delay is None else _seconds(spec.delay.resolve(scope))
            key = None if spec.concurrency is None else _key(spec.concurrency.key.resolve(scope))
        except (TemplateError, PayloadRefused, _GuardError, _DelayError, _KeyError) as error:
            kind = type(error).__name__.removeprefix("_")
            fault = Json.of({"type": kind, "message": str(error)})
            self.end(e.TaskFailed(task_id=task_id, attempt=0, error=fault))
            return
        if delay or spec.is_sleep:
            until = self._at + timedelta(seconds=delay)
            self.record(e.TaskDelayed(task_id=task_id, until=until, concurrency_key=key, inputs=inputs))
        else:
            self.schedule(task_id, 1, inputs, key)

    def _fail_fast(self) -> None:
        state = self.state
        if not state.definition.fail_fast or not state.unhandled or state.status != "open":
            return
        if (failed := self._beyond_handling()) is not None:
            self.stop("failed", f"task {failed} failed and `fail_fast` is set")

    def _beyond_handling(self) -> str | None:
        """A task whose failure nothing can handle any more: a run that has one will fail."""
        return min(filterfalse(self._may_be_handled, self.state.unhandled), default=None)

    def _may_be_handled(self, failed: str) -> bool:
        return any(
            dependent.on == "failed" and self.state.task(dependent.task_id).status not in ENDED
            for dependent in self.state.definition.end_dependents.get(failed, ())
        )

    def _conclude(self) -> bool:
        """End the run if it must; True when that made something follow."""
        self._fail_fast()
        state = self.state
        if state.active:
            return False
        ending = state.status == "stopping" or self._beyond_handling() is not None
        if not ending and self._may_still_come():
            return False
        if state.ended < len(state.definition.tasks):
            self._skip(why_stopped(state) if ending else None)
            return True
        self._end_run()
        return False

    def _may_still_come(self) -> bool:
        """Whether an event from outside could go on with the run; ``task_completed`` comes from within."""
        events = self.state.definition.events
        return any(events[trigger].name != ANY_COMPLETION for trigger in self.state.live_waits)

    def _skip(self, reason: str | None) -> None:
        """Skip every waiting task for ``reason``; without one, those that wait for no task that waits itself.

        The latter wait for a completion, whichever, and none can come until something follows from these skips.
        """
        waiting = [task_id for task_id in self.state.definition.tasks if self.state.task(task_id).status == "waiting"]
        if reason is None:
            skips = [(each, why_skipped(self.state, each)) for each in waiting if not self._waits_for_waiting(each)]
        else:
            skips = [(each, reason) for each in waiting]
        for task_id, why in skips:
            self.end(e.TaskSkipped(task_id=task_id, reason=why))

    def _waits_for_waiting(self, task_id: str) -> bool:
        clauses = zip(self.state.definition.tasks[task_id].clauses, self.state.task(task_id).lacks, strict=True)
        return any(
            end.task_id is not None and self.state.task(end.task_id).status == "waiting"
            for clause, lacks in clauses
            if lacks != DEAD
            for end in clause.ends
        )

    def _end_run(self) -> None:
        state = self.state
        failed = tuple(sorted(state.unhandled))
        match state.outcome:
            case "timed_out":
                self.record(e.RunTimedOut())
            case "cancelled":
                self.record(e.RunCancelled(reason=state.stop_reason))
            case "failed" if not failed:
                self.record(e.RunFailed(error=Json.of({"type": "Stopped", "message": state.stop_reason})))
            case _ if failed:
                self.record(e.RunFailed(tasks=failed))
            case _:
                self._complete()

    def _complete(self) -> None:
        template, output = self.state.definition.output, None
        if template is not None:
            try:
                output = Json.of(template.resolve(run_scope(self.state, self.state.start)))
            except (TemplateError, PayloadRefused) as error:
                fault = {"type": type(error).__name__, "message": f"the run's output: {error}"}
                self.record(e.RunFailed(error=Json.of(fault)))
                return
        self.record(e.RunCompleted(output=output))


class _GuardError(ValueError):
    """A guard's value is not a boolean."""


class _DelayError(ValueError):
    """A delay's value is not a duration."""


class _KeyError(ValueError):
    """A concurrency key is nothing, or too long."""


def _key(value: object) -> str:
    key = value if isinstance(value, str) else Json.of(value).text.decode()
    if value is None or not 0 < len(key) <= LONGEST_KEY:
        raise _KeyError(f"the concurrency key is 1 to {LONGEST_KEY} characters, not {key[:40]!r}")
    return key


def _seconds(delay: object) -> float:
    try:
        return parse_duration(delay, zero=True)
    except ValueError as error:
        raise _DelayError(f"`delay`: {error}") from error


def _occurrence(event: TaskEnded, task: TaskState) -> Occurrence:
    """What ``event`` means in the template of a task that the end of ``task`` makes ready."""
    payload = NULL
    match event:
        case e.TaskCompleted():
            payload = event.output
        case e.TaskFailed() | e.TaskTimedOut():
            payload = task.error or NULL
        case e.TaskSkipped():
            payload = Json.of({"reason": event.reason})
    return Occurrence(f"{event.task_id}.{task.status}", payload)

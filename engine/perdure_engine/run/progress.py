"""A decision in the making: the events recorded so far, the state they lead to, and all that follows from them.

The end of a task touches the clauses that waited for it. A task with a clause that lacks nothing is ready: its guard
is asked, its inputs are resolved, it is scheduled. A task whose clauses are all dead is skipped, which is an end
again. When nothing is active and nothing can come any more, the run ends.
"""

from collections import deque
from collections.abc import Iterable
from datetime import datetime

from perdure_engine.definitions.definition import TaskEnd
from perdure_engine.run import events as e
from perdure_engine.run.evolve import evolve, holds
from perdure_engine.run.matching import matching_triggers
from perdure_engine.run.scope import run_scope
from perdure_engine.run.state import DEAD, ENDED, Occurrence, RunState
from perdure_engine.templates import TemplateError
from perdure_eventstore.door import Json, PayloadRefused


class Progress:
    """Records events and what follows. ``state`` is always the state after the last one recorded."""

    def __init__(self, state: RunState, at: datetime) -> None:
        self.state = state
        self._at = at
        self._events: list[e.RunEvent] = []
        self._touched: deque[tuple[str, Occurrence]] = deque()

    def record(self, event: e.RunEvent) -> None:
        """Record ``event``; nothing follows."""
        self.state = evolve(self.state, event)
        self._events.append(event)

    def finish(self) -> list[e.RunEvent]:
        """Everything recorded, once nothing follows any more and the run has ended if it must."""
        if self._events:
            self._settle()
            while self.state.status in ("open", "stopping") and self._conclude():
                self._settle()
        return self._events

    def end(self, event: e.TaskCompleted | e.TaskFailed | e.TaskTimedOut | e.TaskSkipped | e.TaskCancelled) -> None:
        """Record the end of a task, and remember whom it touches."""
        first_completion = isinstance(event, e.TaskCompleted) and not self.state.any_completed
        self.record(event)
        definition, task_id = self.state.definition, event.task_id
        occurrence = _task_end(event)
        self._touched.extend((d.task_id, occurrence) for d in definition.end_dependents.get(task_id, ()))
        if first_completion:
            self._touched.extend((d.task_id, occurrence) for d in definition.any_completion)
        if isinstance(event, e.TaskCompleted) and (listeners := definition.listeners.get("task_completed")):
            payload = Json(b'{"task_id":"' + task_id.encode() + b'","output":' + event.output.text + b"}")
            self._latch(listeners, Occurrence("task_completed", payload))

    def follow_start(self) -> None:
        """After RunStarted: every task its triggers touched, and every one that needs nothing."""
        definition, start = self.state.definition, self.state.start
        self._touched.extend((task_id, start) for task_id in definition.roots)
        self._touched.extend((task_id, start) for task_id in self.state.tasks)

    def receive(self, event: Occurrence) -> None:
        """Latch an outside event, or record why it is ignored."""
        assert event.id is not None
        name = event.name or ""
        listeners = self.state.definition.listeners.get(name, ())
        if self.state.status != "open":
            reason = f"the run is {self.state.status}"
        elif not listeners:
            reason = "nothing in this run waits for it"
        elif self._latch(listeners, event):
            return
        elif any(trigger in self.state.live_waits for trigger in listeners):
            reason = "`where` is not true of it"
        else:
            reason = "an earlier one was taken, or its time was over"
        self.record(e.EventIgnored(event=name, event_id=event.id, reason=reason))

    def expire(self, trigger: int) -> None:
        """Record that a wait's time is over."""
        name = self.state.definition.events[trigger].name
        self.record(e.WaitExpired(trigger=trigger, event=name))
        self._touch_trigger((trigger,), self.state.start)

    def stop(self, outcome: e.Outcome, reason: str) -> None:
        """Let nothing start any more, and cancel what has not started."""
        self.record(e.RunStopping(outcome=outcome, reason=reason))
        for task_id, task in self.state.tasks.items():
            if task.status in ("scheduled", "retrying", "interrupted"):
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
            task_id, event = self._touched.popleft()
            task = self.state.task(task_id)
            if task.status != "waiting" or self.state.status != "open":
                continue
            if 0 in task.lacks:
                self._make_ready(task_id, event, task.lacks.index(0))
            elif all(lacks == DEAD for lacks in task.lacks):
                self.end(e.TaskSkipped(task_id=task_id, reason=self._why_dead(task_id)))
            self._fail_fast()

    def _make_ready(self, task_id: str, event: Occurrence, clause: int) -> None:
        spec = self.state.definition.tasks[task_id]
        scope = run_scope(self.state, event, spec.clauses[clause].events)
        try:
            if spec.when is not None:
                guard = spec.when.evaluate(scope)
                if not isinstance(guard, bool):
                    raise _GuardError(f"`when` gave {Json.of(guard).text.decode()}, not true or false")
                if not guard:
                    self.end(e.TaskSkipped(task_id=task_id, reason="`when` is false"))
                    return
            inputs = Json.of(spec.inputs.resolve(scope))
        except (TemplateError, PayloadRefused, _GuardError) as error:
            kind = type(error).__name__.removeprefix("_")
            fault = Json.of({"type": kind, "message": str(error)})
            self.end(e.TaskFailed(task_id=task_id, attempt=0, error=fault))
            return
        self.record(e.TaskScheduled(task_id=task_id, attempt=1, inputs=inputs))

    def _fail_fast(self) -> None:
        state = self.state
        if not state.definition.fail_fast or not state.unhandled:
            return
        for task_id in sorted(state.unhandled):
            if not self._may_be_handled(task_id):
                self.stop("failed", f"task {task_id} failed and `fail_fast` is set")
                return

    def _may_be_handled(self, failed: str) -> bool:
        definition = self.state.definition
        return any(
            failed in definition.tasks[dependent.task_id].handles
            and self.state.task(dependent.task_id).status not in ENDED
            for dependent in definition.end_dependents.get(failed, ())
        )

    def _conclude(self) -> bool:
        """End the run if it must; True when that made something follow."""
        self._fail_fast()
        state = self.state
        if state.active or (state.status == "open" and not state.unhandled and self._may_still_come()):
            return False
        if state.ended < len(state.definition.tasks):
            return self._skip_rest()
        match state.outcome:
            case "timed_out":
                self.record(e.RunTimedOut())
            case "cancelled":
                self.record(e.RunCancelled(reason=state.stop_reason))
            case _ if state.unhandled:
                self.record(e.RunFailed(tasks=tuple(sorted(state.unhandled))))
            case _:
                self._complete()
        return False

    def _may_still_come(self) -> bool:
        """Whether an event from outside could go on with the run; ``task_completed`` comes from within."""
        events = self.state.definition.events
        return any(events[trigger].name != "task_completed" for trigger in self.state.live_waits)

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

    def _skip_rest(self) -> bool:
        """Nothing can make the remaining tasks ready any more."""
        state = self.state
        if state.outcome:
            reason = f"the run is stopping: {state.stop_reason}"
        elif state.unhandled:
            reason = f"the run fails: {', '.join(sorted(state.unhandled))} failed"
        else:
            reason = "nothing that could trigger it is left"
        for task_id in state.definition.tasks:
            if self.state.task(task_id).status == "waiting":
                self.end(e.TaskSkipped(task_id=task_id, reason=reason))
                if not (state.outcome or state.unhandled):
                    # Its end may be what another one waits for.
                    return True
        return True

    def _why_dead(self, task_id: str) -> str:
        """Name one condition of each clause that can no longer come true."""
        state, reasons = self.state, []
        for clause in state.definition.tasks[task_id].clauses:
            ends = [end for end in clause.ends if self._is_dead(end)]
            triggers = [i for i in clause.events if i not in state.latched and i not in state.live_waits]
            if ends:
                reasons.append(f"{ends[0].task_id} is {state.task(ends[0].task_id or '').status}, not {ends[0].on}")
            elif triggers:
                trigger = state.definition.events[triggers[0]]
                reasons.append(
                    f"not triggered by {trigger.name}" if trigger.entry else f"{trigger.name} did not come in time"
                )
        return "; ".join(dict.fromkeys(reasons))

    def _is_dead(self, end: TaskEnd) -> bool:
        if end.task_id is None:
            return False
        status = self.state.task(end.task_id).status
        proceeds = status == "failed" and self.state.definition.tasks[end.task_id].proceed_on_failure
        return status in ENDED and not holds(end.on, status, proceeds)


class _GuardError(ValueError):
    """A guard's value is not a boolean."""


def _task_end(event: e.TaskCompleted | e.TaskFailed | e.TaskTimedOut | e.TaskSkipped | e.TaskCancelled) -> Occurrence:
    match event:
        case e.TaskCompleted(output=output):
            return Occurrence(f"{event.task_id}.completed", output)
        case e.TaskFailed(error=error):
            return Occurrence(f"{event.task_id}.failed", error)
        case e.TaskTimedOut():
            return Occurrence(f"{event.task_id}.failed", Json.of({"type": "TimedOut", "timeout": event.timeout}))
        case e.TaskSkipped(reason=reason):
            return Occurrence(f"{event.task_id}.skipped", Json.of({"reason": reason}))
        case e.TaskCancelled():
            return Occurrence(f"{event.task_id}.cancelled", Json(b"null"))

"""One run's events, followed one by one: what may never be seen in them."""

from typing import Any
from uuid import UUID

import orjson

from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.vault.frame import is_frame

END_OF_RUN = frozenset({"RunCompleted", "RunFailed", "RunTimedOut", "RunCancelled"})
END_OF_ATTEMPT = frozenset({"TaskCompleted", "TaskFailed", "TaskTimedOut", "TaskInterrupted", "TaskCancelled"})
MAY_FOLLOW_THE_END = END_OF_ATTEMPT | {"EventIgnored"}


def data_of(event: RecordedEvent) -> dict[str, Any]:
    """The engine's facts about an event."""
    found: dict[str, Any] = orjson.loads(event.data)
    return found


def payload_of(event: RecordedEvent) -> dict[str, Any]:
    """What users gave or got, by name; nothing where it was erased or is encrypted."""
    unknown = event.payload is None or is_frame(event.payload)
    found: dict[str, Any] = {} if unknown else orjson.loads(event.payload or b"")
    return found


class RunChecker:
    """Follows one run. What is wrong is in ``findings``."""

    def __init__(self, run_id: UUID) -> None:
        self.run_id = run_id
        self.findings: list[str] = []
        self.workflow_id = ""
        self.event_id: UUID | None = None
        self.ended = False
        self.outputs: dict[str, Any] = {}
        self.received: set[UUID] = set()
        self.timers: set[str] = set()
        """Retries that must be in the working set while the run is open."""
        self.waits: set[int] = set()
        """Triggers likewise."""
        self._started = False
        self._tasks: dict[str, tuple[int, str]] = {}
        """Each task's attempt, and where it stands: scheduled, started, interrupted, retrying or ended."""

    def see(self, event: RecordedEvent) -> None:
        """Take in the next event."""
        data = data_of(event)
        if self.ended:
            self._after_the_end(event, data)
        if event.type == "RunStarted":
            self._run_started(data)
        elif not self._started:
            self._find(f"{event.type} comes before RunStarted")
        elif event.type in END_OF_RUN:
            self._run_ended()
        elif event.type in ("EventLatched", "EventIgnored", "WaitExpired"):
            self._event(event.type, data)
        elif event.type.startswith("Task"):
            self._task(event, data)

    def _find(self, what: str) -> None:
        self.findings.append(f"run {self.run_id}: {what}")

    def _after_the_end(self, event: RecordedEvent, data: dict[str, Any]) -> None:
        under_way = self._tasks.get(data.get("task_id", ""), (0, ""))[1] == "started"
        if event.type in END_OF_RUN:
            self._find(f"{event.type} ends a run that has ended")
        elif event.type not in MAY_FOLLOW_THE_END or (event.type in END_OF_ATTEMPT and not under_way):
            self._find(f"{event.type} {data.get('task_id', '')} comes after the end".replace("  ", " "))

    def _run_started(self, data: dict[str, Any]) -> None:
        if self._started:
            self._find("it started twice")
        self._started = True
        self.workflow_id = data["workflow_id"]
        self.event_id = UUID(data["event_id"]) if data.get("event_id") else None
        self.waits = {wait["trigger"] for wait in data.get("waits", ())}

    def _run_ended(self) -> None:
        self.ended = True
        for task_id, (attempt, state) in self._tasks.items():
            if state in ("scheduled", "retrying", "interrupted"):
                self._find(f"it ended while attempt {attempt} of {task_id} was {state}")

    def _event(self, type_: str, data: dict[str, Any]) -> None:
        self.waits -= set(data.get("triggers", ())) | {data.get("trigger", -1)}
        if type_ == "WaitExpired" or data.get("event_id") is None:
            return
        event_id = UUID(data["event_id"])
        if event_id in self.received:
            self._find(f"event {event_id} reached it twice")
        self.received.add(event_id)

    def _task(self, event: RecordedEvent, data: dict[str, Any]) -> None:
        task_id, attempt = data["task_id"], data.get("attempt", 0)
        before, state = self._tasks.get(task_id, (0, "waiting"))
        if state == "ended":
            self._find(f"{event.type} of {task_id}, which had ended")
        elif event.type == "TaskScheduled":
            if state in ("scheduled", "started"):
                self._find(f"attempt {attempt} of {task_id} is scheduled while attempt {before} is {state}")
            elif attempt != before + 1:
                self._find(f"attempt {attempt} of {task_id} follows attempt {before}")
        elif event.type == "TaskStarted":
            if state == "started":
                self._find(f"attempt {attempt} of {task_id} starts while attempt {before} is under way")
            elif (state, attempt) != ("scheduled", before):
                self._find(f"attempt {attempt} of {task_id} starts before it is scheduled")
        elif event.type in END_OF_ATTEMPT:
            self._end_of_attempt(event.type, data, before, state)
        self._tasks[task_id] = (attempt or before, self._state_after(event, data))

    def _end_of_attempt(self, type_: str, data: dict[str, Any], before: int, state: str) -> None:
        task_id, attempt = data["task_id"], data["attempt"]
        never_scheduled = type_ == "TaskFailed" and attempt == 0 and state == "waiting"
        given_up = type_ == "TaskFailed" and state == "interrupted" and attempt == before
        if never_scheduled or given_up or type_ == "TaskCancelled":
            return
        if (state, attempt) != ("started", before):
            self._find(f"{type_} of attempt {attempt} of {task_id}, which is not under way")

    def _state_after(self, event: RecordedEvent, data: dict[str, Any]) -> str:
        timer = f"retry:{data['task_id']}"
        self.timers.discard(timer)
        match event.type:
            case "TaskScheduled":
                return "scheduled"
            case "TaskStarted":
                return "started"
            case "TaskInterrupted":
                return "interrupted"
            case "TaskFailed" | "TaskTimedOut" if data.get("retry_at"):
                self.timers.add(timer)
                return "retrying"
            case "TaskCompleted":
                self.outputs.setdefault(data["task_id"], payload_of(event).get("output"))
        return "ended"

"""One run's events, followed one by one: what may never be seen in them."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.vault.frame import is_frame

END_OF_RUN = frozenset({"RunCompleted", "RunFailed", "RunTimedOut", "RunCancelled"})
END_OF_ATTEMPT = frozenset({"TaskCompleted", "TaskFailed", "TaskTimedOut", "TaskInterrupted", "TaskCancelled"})
MAY_FOLLOW_THE_END = END_OF_ATTEMPT | {"EventIgnored"}
MOST_DEATHS = 5
"""Deaths of a node under one task after which it is not tried again."""

ON_A_TIMER = ("delayed", "retrying")


def data_of(event: RecordedEvent) -> dict[str, Any]:
    """The engine's facts about an event."""
    found: dict[str, Any] = orjson.loads(event.data)
    return found


def payload_of(event: RecordedEvent) -> dict[str, Any]:
    """What users gave or got, by name; nothing where it was erased or is encrypted."""
    unknown = event.payload is None or is_frame(event.payload)
    found: dict[str, Any] = {} if unknown else orjson.loads(event.payload or b"")
    return found


@dataclass
class TaskStory:
    """What happened to one task."""

    attempt: int = 0
    state: str = "waiting"
    """Or delayed, scheduled, started, interrupted, retrying or ended."""
    end: str = ""
    """The type of the event that ended it."""
    node: str = ""
    """Where the last attempt started."""
    starts: int = 0
    timeouts: int = 0
    deaths: int = 0
    """Interruptions that were no clean stop."""
    errors: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    """Of each attempt that failed, and did not merely end the task after an interruption."""
    at_most_once: bool = False
    start_timer: bool = False
    key: str | None = None
    """Its concurrency key."""

    @property
    def failures(self) -> int:
        """Attempts that count towards its policy."""
        return self.timeouts + len(self.errors)


class RunChecker:
    """Follows one run. What is wrong is in ``findings``."""

    def __init__(self, run_id: UUID) -> None:
        self.run_id = run_id
        self.findings: list[str] = []
        self.workflow_id = ""
        self.event_id: UUID | None = None
        self.end: str = ""
        """The type of the event that ended it."""
        self.failed_tasks: list[str] = []
        """Of RunFailed."""
        self.tasks: dict[str, TaskStory] = {}
        self.outputs: dict[str, Any] = {}
        self.output: Any = None
        self.received: set[UUID] = set()
        self.paused = self.stopping = False
        self.pauses = 0
        self.waits: set[int] = set()
        """Triggers that must be in the working set while the run is open."""
        self._started = False
        self._timed_waits: set[int] = set()
        self._has_deadline = False

    @property
    def ended(self) -> bool:
        """Whether the run has ended."""
        return bool(self.end)

    @property
    def timers(self) -> set[str]:
        """Those that must be in the working set while the run is open."""
        found = {f"retry:{name}" for name, task in self.tasks.items() if task.state == "retrying"}
        found |= {f"delay:{name}" for name, task in self.tasks.items() if task.state == "delayed"}
        found |= {f"start:{name}" for name, task in self.tasks.items() if task.start_timer}
        found |= {f"wait:{trigger}" for trigger in self._timed_waits & self.waits}
        return found | ({"deadline"} if self._has_deadline else set())

    @property
    def may_be_parked(self) -> bool:
        """Whether no node has anything to do for it."""
        states = {task.state for task in self.tasks.values()} - {"waiting", *ON_A_TIMER, "ended"}
        return not states or (self.paused and "started" not in states)

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
            self._run_ended(event, data)
        elif event.type in ("RunPaused", "RunResumed", "RunStopping"):
            self._steered(event.type)
        elif event.type in ("EventLatched", "EventIgnored", "WaitExpired"):
            self._event(event.type, data)
        elif event.type.startswith("Task"):
            self._task(event, data)

    def _find(self, what: str) -> None:
        self.findings.append(f"run {self.run_id}: {what}")

    def _after_the_end(self, event: RecordedEvent, data: dict[str, Any]) -> None:
        task = self.tasks.get(data.get("task_id", ""))
        under_way = task is not None and task.state == "started"
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
        self._timed_waits = {wait["trigger"] for wait in data.get("waits", ()) if wait.get("until")}
        self._has_deadline = data.get("deadline") is not None

    def _run_ended(self, event: RecordedEvent, data: dict[str, Any]) -> None:
        self.end = self.end or event.type
        self.failed_tasks = list(data.get("tasks", ()))
        self.output = payload_of(event).get("output")
        for name, task in self.tasks.items():
            if task.state not in ("waiting", "started", "ended"):
                self._find(f"it ended while attempt {task.attempt} of {name} was {task.state}")

    def _steered(self, type_: str) -> None:
        if type_ == "RunStopping":
            self.stopping = True
        elif self.paused == (type_ == "RunPaused"):
            self._find(f"{type_} of a run that {'is' if self.paused else 'is not'} paused")
        else:
            self.paused = not self.paused
            self.pauses += self.paused

    def _event(self, type_: str, data: dict[str, Any]) -> None:
        self.waits -= set(data.get("triggers", ())) | {data.get("trigger", -1)}
        if type_ == "WaitExpired" and self.paused:
            self._find("a wait ended while it was paused")
        if type_ == "WaitExpired" or data.get("event_id") is None:
            return
        event_id = UUID(data["event_id"])
        if event_id in self.received:
            self._find(f"event {event_id} reached it twice")
        self.received.add(event_id)

    def _task(self, event: RecordedEvent, data: dict[str, Any]) -> None:
        name, attempt = data["task_id"], data.get("attempt", 0)
        task = self.tasks.setdefault(name, TaskStory())
        if task.state == "ended":
            self._find(f"{event.type} of {name}, which had ended")
        elif event.type == "TaskDelayed" and task.state != "waiting":
            self._find(f"{name} is delayed though it is {task.state}")
        elif event.type == "TaskScheduled":
            self._scheduled(name, task, attempt)
        elif event.type == "TaskStarted":
            self._begun(name, task, attempt)
        elif event.type in END_OF_ATTEMPT:
            self._end_of_attempt(event.type, data, task)
        self._evolve(event, data, task)

    def _scheduled(self, name: str, task: TaskStory, attempt: int) -> None:
        if task.state in ("scheduled", "started"):
            self._find(f"attempt {attempt} of {name} is scheduled while attempt {task.attempt} is {task.state}")
        elif attempt != task.attempt + 1:
            self._find(f"attempt {attempt} of {name} follows attempt {task.attempt}")
        if task.at_most_once:
            self._find(f"attempt {attempt} of {name} is scheduled, which is attempted at most once and was")
        if task.deaths >= MOST_DEATHS:
            self._find(f"attempt {attempt} of {name} is scheduled after {task.deaths} deaths of its nodes")
        if self.stopping:
            self._find(f"attempt {attempt} of {name} is scheduled though the run is stopping")
        if self.paused and task.state in ON_A_TIMER:
            self._find(f"the time of {name} was over while the run was paused")

    def _begun(self, name: str, task: TaskStory, attempt: int) -> None:
        if task.state == "started":
            self._find(f"attempt {attempt} of {name} starts while attempt {task.attempt} is under way")
        elif (task.state, attempt) != ("scheduled", task.attempt):
            self._find(f"attempt {attempt} of {name} starts before it is scheduled")
        if task.at_most_once:
            self._find(f"attempt {attempt} of {name} starts, which is attempted at most once and was")
        if self.paused:
            self._find(f"attempt {attempt} of {name} starts while the run is paused")
        if self.stopping:
            self._find(f"attempt {attempt} of {name} starts though the run is stopping")

    def _end_of_attempt(self, type_: str, data: dict[str, Any], task: TaskStory) -> None:
        name, attempt = data["task_id"], data["attempt"]
        never_scheduled = type_ == "TaskFailed" and attempt == 0 and task.state == "waiting"
        given_up = type_ == "TaskFailed" and task.state == "interrupted" and attempt == task.attempt
        slept = type_ == "TaskCompleted" and attempt == 0 and task.state == "delayed"
        if self.paused and (slept or data.get("limit") == "schedule_to_start"):
            self._find(f"the time of {name} was over while the run was paused")
        if never_scheduled or given_up or slept or type_ == "TaskCancelled":
            return
        wanted = "scheduled" if data.get("limit") == "schedule_to_start" else "started"
        if (task.state, attempt) != (wanted, task.attempt):
            self._find(f"{type_} of attempt {attempt} of {name}, which is not under way")
        if task.at_most_once and data.get("retry_at"):
            self._find(f"{name} is to be tried again, which is attempted at most once and was")

    def _evolve(self, event: RecordedEvent, data: dict[str, Any], task: TaskStory) -> None:
        was, task.attempt = task.state, data.get("attempt", 0) or task.attempt
        task.start_timer = False
        match event.type:
            case "TaskDelayed":
                task.state = "delayed"
            case "TaskScheduled":
                task.state, task.start_timer = "scheduled", bool(data.get("start_by"))
            case "TaskStarted":
                task.state, task.node, task.starts = "started", data.get("node", ""), task.starts + 1
                task.at_most_once = bool(data.get("at_most_once"))
            case "TaskInterrupted":
                task.state, task.deaths = "interrupted", task.deaths + (not data.get("clean"))
            case "TaskFailed" | "TaskTimedOut":
                if event.type == "TaskTimedOut":
                    task.timeouts += 1
                elif was != "interrupted":
                    task.errors.append((task.attempt, payload_of(event).get("error") or {}))
                task.state = "retrying" if data.get("retry_at") else "ended"
            case _:
                task.state = "ended"
        if event.type == "TaskCompleted":
            self.outputs.setdefault(data["task_id"], payload_of(event).get("output"))
        if task.state == "ended":
            task.end = event.type
        task.key = payload_of(event).get("concurrency_key") or task.key

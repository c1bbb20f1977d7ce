"""Whether every run ended as its definition says: reckoned from its shape and what befell it, not by the engine."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from acceptance.checker import History, runs_of
from acceptance.run_checker import END_OF_ATTEMPT, MOST_DEATHS, RunChecker, TaskStory, data_of, payload_of
from bad_days.shapes import LIMITS, Fate, Life

DEFAULT_ATTEMPTS = 3


class Booked(NamedTuple):
    """A row of the ledger."""

    run: str
    task: str
    attempt: int
    token: str


class Call(NamedTuple):
    """What a handler noted: that it begins, or ends."""

    what: str
    run: str
    task: str
    attempt: int
    pid: int
    moment: float


class Evidence(NamedTuple):
    """Everything there is to judge by."""

    history: History
    lives: Sequence[Life]
    ledger: Sequence[Booked] = ()
    calls: Sequence[Call] = ()


class Judge:
    """``findings`` are sentences; ``excused`` counts what bad luck alone explains."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._runs = runs_of(evidence.history)
        self._by_event = {str(run.event_id): run for run in self._runs.values() if run.event_id}
        self.excused: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.findings = [*self._lives(), *self._ledger(), *self._calls(), *self._permits(), *self._strangers()]

    def run_of(self, life: Life) -> RunChecker | None:
        """The run, if the log has it."""
        return self._runs.get(UUID(life.run)) if life.run else self._by_event.get(life.event)

    def _lives(self) -> Iterator[str]:
        for life in self._evidence.lives:
            run = self.run_of(life)
            if run is None:
                yield f"{life.shape.name} {life.number} was asked for and never started"
                continue
            self.ends[run.end or "open"] += 1
            for finding in self._life(life, run):
                yield f"run {run.run_id} ({life.shape.name} {life.number}): {finding}"

    def _life(self, life: Life, run: RunChecker) -> Iterator[str]:
        shape, wanted = life.shape, life.shape.end
        if run.workflow_id != shape.name:
            yield f"it is a run of {run.workflow_id}"
        missing = [event for event in life.events if event != life.event and UUID(event) not in run.received]
        if missing and run.end in ("", "RunCompleted"):
            yield f"it never got {', '.join(missing)}"
        if life.held and not run.pauses and run.end != "RunFailed":
            yield "it was to be paused, and never was"
        if wanted != "by its tasks":
            if (run.end or "open") != wanted:
                yield f"it is {run.end or 'open'}, and was to be {wanted}"
            elif wanted == "open" and bool(life.held) != run.paused:
                yield f"it is {'' if run.paused else 'not '}paused"
            elif wanted == "open" and run.run_id not in self._evidence.history.parked:
                yield "it waits, and is not parked"
        elif not run.end:
            yield "it did not end"
        elif run.end != "RunCancelled" or not life.cancelled:
            yield from self._by_its_tasks(life, run)

    def _by_its_tasks(self, life: Life, run: RunChecker) -> Iterator[str]:
        tasks = life.shape.tasks()
        failed = sorted(name for name, task in run.tasks.items() if task.end in ("TaskFailed", "TaskTimedOut"))
        unhandled = [name for name in failed if not _is_handled(name, tasks, run)]
        wanted = "RunFailed" if unhandled else "RunCompleted"
        if run.end != wanted:
            yield f"it ended with {run.end}, and by its tasks it was to be {wanted}"
        elif run.failed_tasks != unhandled:
            yield f"it says that {run.failed_tasks} failed, and {unhandled} did"
        elif (
            wanted == "RunCompleted"
            and not failed
            and life.shape.output is not None
            and run.output != (output := life.shape.output(life.number))
        ):
            yield f"its output is {run.output!r}, not {output!r}"
        for name, definition in tasks.items():
            task, fate = run.tasks.get(name, TaskStory()), life.shape.fates[name]
            if not fate.guard(life.number) or not _is_ready(definition, tasks, run, life):
                if task.end != "TaskSkipped":
                    yield f"{name} was to be skipped, and ended with {task.end or 'nothing'}"
            elif task.end == "TaskSkipped":
                yield f"{name} was skipped, and was ready"
            else:
                yield from self._task(name, definition, task, fate, life.number, run)

    def _task(
        self, name: str, definition: Mapping[str, Any], task: TaskStory, fate: Fate, number: int, run: RunChecker
    ) -> Iterator[str]:
        most = fate.attempts or definition.get("retry", {}).get("attempts", DEFAULT_ATTEMPTS)
        limited = definition.keys() & {"timeout", "heartbeat", "schedule_to_start"}
        stray = [(n, e) for n, e in task.errors if e.get("type") not in fate.errors]
        if task.timeouts and not limited:
            yield f"{name} timed out, and has no limit of time"
        if stray:
            yield f"attempt {stray[0][0]} of {name} failed with {stray[0][1].get('type')}: {stray[0][1].get('message')}"
        if not fate.fails and (late := [n for n, _ in task.errors if n > fate.stumbles]):
            yield f"attempt {late[0]} of {name} failed, and was to complete"
        if task.failures > most > 0:
            yield f"{name} failed {task.failures} times, and is to be tried {most} times"
        if task.end == "TaskCompleted":
            if fate.fails:
                yield f"{name} completed, and cannot"
            elif fate.output is not None and run.outputs[name] != fate.output(number):
                yield f"the output of {name} is {run.outputs[name]!r}, not {fate.output(number)!r}"
        elif (why := _excuse(definition, task, most, limited)) is None:
            yield f"{name} ended with {task.end or 'nothing'} after {task.failures} failures and {task.deaths} deaths"
        elif not fate.fails:
            self.excused[why] += 1

    def _ledger(self) -> Iterator[str]:
        """Exactly once: a row for each booking that completed, written by the attempt that did, and no other."""
        rows: defaultdict[tuple[str, str], list[Booked]] = defaultdict(list)
        for booked in self._evidence.ledger:
            rows[booked.run, booked.task].append(booked)
        wanted = {}
        for life in self._evidence.lives:
            run = self.run_of(life)
            for name, definition in life.shape.tasks().items() if run is not None else ():
                if definition.get("type") == "book" and run is not None and name in run.outputs:
                    wanted[str(run.run_id), name] = (run.tasks[name].attempt, run.outputs[name])
        for key in rows.keys() | wanted.keys():
            found = [(booked.attempt, booked.token) for booked in rows[key]]
            if found != ([wanted[key]] if key in wanted else []):
                yield f"run {key[0]}: the ledger has {found} of {key[1]}, and the log says {wanted.get(key)}"

    def _calls(self) -> Iterator[str]:  # noqa: C901 - what may not be, one after another
        """No handler is called before its attempt is recorded, for none twice, nor again for a task at most once."""
        starts = {
            (str(event.stream), data["task_id"], data["attempt"]): data
            for event in self._evidence.history.events
            if event.type == "TaskStarted" and (data := data_of(event))
        }
        begun = Counter((call.run, call.task, call.attempt) for call in self._evidence.calls if call.what == "begins")
        for key, count in begun.items():
            if key not in starts:
                yield f"run {key[0]}: attempt {key[2]} of {key[1]} was executed, and its start is not in the log"
            if count > 1:
                yield f"run {key[0]}: attempt {key[2]} of {key[1]} was executed {count} times"
        once = Counter(key[:2] for key in begun if key in starts and starts[key].get("at_most_once"))
        for (run, name), count in once.items():
            if count > 1:
                yield f"run {run}: {name} was executed {count} times, and was to be at most once"
        for life in self._evidence.lives:
            if (checker := self.run_of(life)) is None:
                continue
            for name, definition in life.shape.tasks().items():
                task = checker.tasks.get(name, TaskStory())
                key = (str(checker.run_id), name, task.attempt)
                if definition.get("delivery") and task.starts and not task.at_most_once:
                    yield f"run {key[0]}: {name} was started as if it might be attempted again"
                if definition.get("type") and task.end == "TaskCompleted" and not begun[key]:
                    yield f"run {key[0]}: attempt {key[2]} of {name} completed, and was never executed"

    def _permits(self) -> Iterator[str]:
        """Of a concurrency key, no more attempts under way than its limit: by the log, and as their handlers saw it."""
        keys: dict[tuple[str, str], str] = {}
        under_way: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        whole: dict[tuple[str, str, int], str] = {}
        for event in self._evidence.history.events:
            if not event.type.startswith("Task"):
                continue
            data = data_of(event)
            place = str(event.stream), data["task_id"]
            if key := payload_of(event).get("concurrency_key"):
                keys[place] = key
            if place not in keys:
                continue
            if event.type == "TaskStarted":
                under_way[keys[place]].add(place)
                if len(under_way[keys[place]]) > (most := LIMITS[keys[place].split()[0]]):
                    yield f"run {place[0]}: with {place[1]} more than {most} of {keys[place]!r} are under way"
            elif event.type in END_OF_ATTEMPT:
                under_way[keys[place]].discard(place)
                if event.type == "TaskCompleted":
                    whole[(*place, data["attempt"])] = keys[place]
        yield from self._overlaps(whole)

    def _overlaps(self, whole: Mapping[tuple[str, str, int], str]) -> Iterator[str]:
        """Those that completed: one that was frozen or killed may well overlap with the next attempt."""
        moments: defaultdict[str, list[tuple[float, int, str]]] = defaultdict(list)
        for call in self._evidence.calls:
            if key := whole.get((call.run, call.task, call.attempt)):
                moments[key].append((call.moment, 1 if call.what == "begins" else -1, call.run))
        for key, found in moments.items():
            now, most = 0, LIMITS[key.split()[0]]
            for moment, change, run in sorted(found):
                now += change
                if now > most:
                    yield f"run {run}: {now} handlers of {key!r} at once at {moment:.3f}, and {most} may be"

    def _strangers(self) -> Iterator[str]:
        """Runs that nobody asked for."""
        known = {run.run_id for life in self._evidence.lives if (run := self.run_of(life)) is not None}
        for run_id, run in self._runs.items():
            if run_id not in known:
                yield f"run {run_id} of {run.workflow_id} is in the log, and nobody asked for it"


def _is_handled(failed: str, tasks: Mapping[str, Mapping[str, Any]], run: RunChecker) -> bool:
    return tasks[failed].get("on_failure") == "continue" or any(
        f"{failed}.failed" in each.get("triggers", ()) and name in run.outputs for name, each in tasks.items()
    )


def _is_ready(
    definition: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]], run: RunChecker, life: Life
) -> bool:  # fmt: skip
    if any(name not in run.outputs for name in definition.get("depends_on", ())):
        return False
    triggers = definition.get("triggers", ())
    return not triggers or any(_holds(trigger, tasks, run, life) for trigger in triggers)


def _holds(trigger: Any, tasks: Mapping[str, Mapping[str, Any]], run: RunChecker, life: Life) -> bool:
    if isinstance(trigger, dict):
        parts = trigger.get("all")
        return life.shape.comes if parts is None else all(_holds(part, tasks, run, life) for part in parts)
    name, dot, how = trigger.rpartition(".")
    if not dot or name not in tasks:
        return bool(life.shape.comes)
    end = run.tasks.get(name, TaskStory()).end
    is_done = end in ("TaskCompleted", "TaskSkipped") or tasks[name].get("on_failure") == "continue"
    return {
        "completed": end == "TaskCompleted", "failed": end in ("TaskFailed", "TaskTimedOut"),
        "skipped": end == "TaskSkipped", "done": is_done, "ended": bool(end),
    }[how]  # fmt: skip


def _excuse(definition: Mapping[str, Any], task: TaskStory, most: int, limited: Any) -> str | None:
    """Why a task may have failed, whatever its handler does; None if it may not."""
    if task.end not in ("TaskFailed", "TaskTimedOut"):
        return None
    if task.deaths == MOST_DEATHS:
        return "tasks that failed by the fifth death of a node"
    if task.at_most_once and task.starts == 1:
        return "at-most-once tasks that were interrupted"
    if task.failures == most and (limited or task.errors):
        return "tasks out of attempts"
    return None

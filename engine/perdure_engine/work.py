"""The working set: rows that commit in the statement that appends the events which cause them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from perdure_engine.definitions.definition import Definition
from perdure_engine.identity import shard_of
from perdure_engine.run import events as e
from perdure_eventstore.append import Append, Statement

OPEN_KEY = "open_runs_key"
"""The constraint that refuses a second open run with one key."""

Rows = dict[str, list[dict[str, Any]]]
"""By table (see write_work in the migrations), the rows to write or delete beside an append."""


class WorkStatement(Statement):
    """``append_with_work``: the append, a node's fence, and the working set. A client has no fence."""

    def __init__(self, schema: str = "perdure", node: UUID | None = None, epoch: int = 0) -> None:
        self._call(schema, "append_with_work", "commit_with_work", 3)
        self._fence = [None if node is None else node.bytes, epoch.to_bytes(4, "big")]

    def parameters(self, batch: Sequence[Append]) -> list[bytes | None]:
        """Fence and rows, before what append_batch takes."""
        merged: Rows = {}
        for place, append in enumerate(batch, 1):
            if append.companion:
                for table, rows in append.companion.items():
                    merged.setdefault(table, []).extend({"a": place, **row} for row in rows)
        return [*self._fence, orjson.dumps(merged) if merged else None]


def work_of(  # noqa: C901 - a line a type
    run: UUID,
    events: Sequence[e.RunEvent],
    armed_at: int | None = None,
    *,
    paused: bool = False,
    parked: bool | None = None,
    definition: Definition | None = None,
) -> Rows:
    """What ``events`` of ``run`` change in the working set.

    ``armed_at`` is the position from which its waits count, where that is not RunStarted's own; ``paused`` whether the
    run was before; ``parked`` whether it is from now on, None if that is as it was. Where its ``definition``
    is not known, timers are cleared that may not be there.
    """
    rows: Rows = {}
    tasks = None if definition is None else definition.tasks
    for event in events:
        match event:
            case e.TaskStarted():
                if tasks is None or tasks[event.task_id].schedule_to_start is not None:
                    _clear(rows, run, "start", event.task_id)
            case e.TaskFailed() | e.TaskTimedOut():
                if tasks is None or tasks[event.task_id].schedule_to_start is not None:
                    _clear(rows, run, "start", event.task_id)
                if event.retry_at is not None:
                    _set(rows, run, f"retry:{event.task_id}", event.retry_at, held=paused)
            case e.TaskScheduled():
                if event.attempt > 1:
                    _clear(rows, run, "retry", event.task_id)
                elif tasks is None or tasks[event.task_id].delay is not None:
                    _clear(rows, run, "delay", event.task_id)
                if event.start_by is not None:
                    _set(rows, run, f"start:{event.task_id}", event.start_by, held=paused)
            case e.TaskDelayed():
                _set(rows, run, f"delay:{event.task_id}", event.until, held=paused)
            case e.TaskCompleted():
                if event.attempt == 0:
                    _clear(rows, run, "delay", event.task_id)
            case e.RunPaused() | e.RunResumed():
                paused = isinstance(event, e.RunPaused)
                _add(rows, "paused", {"run": run, "paused": paused})
            case e.RunStarted():
                _open(rows, run, event, armed_at)
            case e.EventLatched():
                for trigger in event.triggers:
                    _disarm(rows, run, trigger)
            case e.WaitExpired():
                _disarm(rows, run, event.trigger)
            case e.RunCompleted() | e.RunFailed() | e.RunTimedOut() | e.RunCancelled():
                _add(rows, "closed", {"run": run})
    if parked is not None and "opened" in rows:
        rows["opened"][0]["parked"] = parked
    elif parked is not None:
        _add(rows, "parked", {"run": run, "parked": parked})
    if "closed" in rows:
        # What would be written only to be deleted again.
        rows = {"closed": rows["closed"]}
    if definition is not None and definition.has_keys and (released := _released(run, events, definition, paused)):
        rows["released"] = released
    return rows


_ENDS_OF_ATTEMPTS = (e.TaskCompleted, e.TaskFailed, e.TaskTimedOut, e.TaskInterrupted, e.TaskCancelled)


def _released(
    run: UUID, events: Sequence[e.RunEvent], definition: Definition, paused: bool
) -> list[dict[str, Any]]:  # fmt: skip
    """The permits of attempts that ended; an import has none.

    A task that may begin again at once keeps its own: it was asked for as this was decided, and is there.
    """
    ended: dict[str, bool] = {}
    for event in events:
        if isinstance(event, _ENDS_OF_ATTEMPTS) and definition.tasks[event.task_id].concurrency is not None:
            ended[event.task_id] = True
        elif isinstance(event, e.TaskScheduled) and event.task_id in ended:
            ended[event.task_id] = paused
    return [{"run": run, "task_id": task_id} for task_id, is_over in ended.items() if is_over]


def _open(rows: Rows, run: UUID, event: e.RunStarted, armed_at: int | None) -> None:
    key = event.key if event.keyed else None
    _add(rows, "opened", {"run": run, "shard": shard_of(run), "workflow_id": event.workflow_id, "key": key})
    for wait in event.waits:
        _add(
            rows,
            "waits",
            {"run": run, "trigger": wait.trigger, "event": wait.event, "key": key, "armed_at": armed_at},
        )
        if wait.until is not None:
            _set(rows, run, f"wait:{wait.trigger}", wait.until)
    if event.deadline is not None:
        _set(rows, run, "deadline", event.deadline)


def _disarm(rows: Rows, run: UUID, trigger: int) -> None:
    _add(rows, "disarmed", {"run": run, "trigger": trigger})
    _clear(rows, run, "wait", trigger)


def _set(rows: Rows, run: UUID, timer: str, due: datetime, *, held: bool = False) -> None:
    row = {"run": run, "timer": timer, "shard": shard_of(run), "due": due}
    _add(rows, "timers", row | {"held": True} if held else row)


def _clear(rows: Rows, run: UUID, kind: str, subject: object) -> None:
    _add(rows, "cleared", {"run": run, "timer": f"{kind}:{subject}"})


def _add(rows: Rows, table: str, row: dict[str, Any]) -> None:
    rows.setdefault(table, []).append(row)

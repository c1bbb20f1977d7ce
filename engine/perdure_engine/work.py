"""The working set: rows that commit in the statement that appends the events which cause them."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import orjson

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


def work_of(run: UUID, events: Iterable[e.RunEvent], armed_at: int | None = None) -> Rows:  # noqa: C901 - a line a type
    """What ``events`` of ``run`` change in the working set.

    ``armed_at`` is the position from which its waits count, where that is not RunStarted's own.
    """
    rows: Rows = {}
    for event in events:
        match event:
            case e.TaskFailed() | e.TaskTimedOut():
                if event.retry_at is not None:
                    _add(rows, "timers", _timer(run, f"retry:{event.task_id}", event.retry_at))
            case e.TaskScheduled():
                if event.attempt > 1:
                    _add(rows, "cleared", {"run": run, "timer": f"retry:{event.task_id}"})
            case e.RunStarted():
                _open(rows, run, event, armed_at)
            case e.EventLatched():
                for trigger in event.triggers:
                    _disarm(rows, run, trigger)
            case e.WaitExpired():
                _disarm(rows, run, event.trigger)
            case e.RunCompleted() | e.RunFailed() | e.RunTimedOut() | e.RunCancelled():
                _add(rows, "closed", {"run": run})
    if "closed" in rows:
        # What would be written only to be deleted again.
        return {"closed": rows["closed"]}
    return rows


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
            _add(rows, "timers", _timer(run, f"wait:{wait.trigger}", wait.until))
    if event.deadline is not None:
        _add(rows, "timers", _timer(run, "deadline", event.deadline))


def _disarm(rows: Rows, run: UUID, trigger: int) -> None:
    _add(rows, "disarmed", {"run": run, "trigger": trigger})
    _add(rows, "cleared", {"run": run, "timer": f"wait:{trigger}"})


def _timer(run: UUID, timer: str, due: Any) -> dict[str, Any]:
    return {"run": run, "timer": timer, "shard": shard_of(run), "due": due}


def _add(rows: Rows, table: str, row: dict[str, Any]) -> None:
    rows.setdefault(table, []).append(row)

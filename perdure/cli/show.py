"""``perdure show``: a run, its tasks, its result."""

from typing import Any
from uuid import UUID

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from perdure.cli import exits
from perdure.cli.archive import load_archived
from perdure.cli.looking import looking
from perdure.cli.output import emit, people, raw, utc
from perdure.cli.place import find_app
from perdure.cli.run_names import find_run
from perdure.cli.verb import Common
from perdure.cli.words import ago, between, local, shortened, status
from perdure.client import Client
from perdure_engine.history import Loaded, UnknownRun
from perdure_engine.run.state import RunState
from perdure_eventstore.door import Json
from perdure_projections.queries import RunRow, TaskRow, get_run, get_tasks


async def show_run(common: Common, name: str, archive: str | None = None) -> int:
    """The verb."""
    async with looking(find_app(common)) as client:
        await print_run(common, client, await find_run(client, name), archive)
    return exits.DONE


def exit_status(run_status: str) -> int:
    """The exit status of a command that waited for a run."""
    if run_status == "completed":
        return exits.DONE
    return exits.STILL_OPEN if run_status in ("open", "paused", "stopping") else exits.FAILED


async def print_run(common: Common, client: Client, run: UUID, archive: str | None = None) -> str:
    """Print a run out of views that are up to date, and return its status. Raises UnknownRun."""
    row = await get_run(client.engine, client.schema, run)
    if row is None:
        raise UnknownRun(run)
    tasks = await get_tasks(client.engine, client.schema, run)
    loaded = await load_archived(client, run, archive)
    if common.json:
        emit(_as_json(row, tasks, loaded))
    else:
        _print(people(), row, tasks, loaded)
    return row.status


def _as_json(row: RunRow, tasks: list[TaskRow], loaded: Loaded) -> dict[str, Any]:
    state = loaded.state
    has_result = row.status == "completed" and not loaded.erased
    return {
        "run_id": row.run,
        "workflow_id": row.workflow_id,
        "digest": row.digest,
        "status": row.status,
        "event": row.event,
        "key": row.key,
        "started_at": utc(row.started_at),
        "ended_at": utc(row.ended_at),
        "input": raw(state.input.text),
        "result": raw(state.result().text) if has_result else None,
        "erased": loaded.erased,
        "archived": loaded.archived,
        "error": _run_error(row, state),
        "tasks": [
            {
                "task_id": task.task_id,
                "type": state.definition.tasks[task.task_id].type,
                "status": task.status,
                "attempt": task.attempt,
                "failures": task.failures,
                "interruptions": task.interruptions,
                "started_at": utc(task.started_at),
                "ended_at": utc(task.ended_at),
                "retry_at": utc(task.retry_at),
                "node": task.node,
                "output": raw(output.text) if (output := state.task(task.task_id).output) else None,
                "reason": task.reason,
                "error": _error(task, state),
            }
            for task in tasks
        ],
        "waiting": _waiting(state, tasks),
    }


def _error(task: TaskRow, state: RunState) -> str | None:
    """The message of its latest failure. The view has none where payloads are encrypted."""
    if task.error is not None or (error := state.task(task.task_id).error) is None:
        return task.error
    return message_of(error)


def _run_error(row: RunRow, state: RunState) -> str | None:
    return row.error if row.error is not None or state.error is None else message_of(state.error)


def message_of(error: Json) -> str:
    """The short text of an error, as the views have it."""
    found = error.value
    return str(found.get("message", found) if isinstance(found, dict) else found)


def _waiting(state: RunState, tasks: list[TaskRow]) -> list[str]:
    touched = {task.task_id for task in tasks}
    return [task_id for task_id in state.definition.tasks if task_id not in touched]


def _print(console: Console, row: RunRow, tasks: list[TaskRow], loaded: Loaded) -> None:
    state = loaded.state
    took = f" in {between(row.started_at, row.ended_at)}" if row.ended_at else ""
    console.print(f"[bold]{row.workflow_id}[/] {row.run} {status(row.status)}{took}", soft_wrap=True)
    by = f", by {escape(row.event)}" if row.event else ""
    console.print(f"[dim]started {local(row.started_at)}, {ago(row.started_at)}{by}[/]", soft_wrap=True)
    table = Table("task", "type", "status", "attempts", "took", "", box=None, header_style="bold")
    for task in tasks:
        what = task.reason or (_error(task, state) if task.status != "completed" else "") or ""
        if task.status == "completed" and (output := state.task(task.task_id).output):
            what = "erased" if loaded.erased else output.text.decode()
        table.add_row(
            task.task_id,
            state.definition.tasks[task.task_id].type,
            status(task.status),
            _attempts(task),
            between(task.started_at, task.ended_at),
            escape(shortened(what)),
        )
    for task_id in _waiting(state, tasks) if row.ended_at is None else ():
        table.add_row(task_id, state.definition.tasks[task_id].type, status("waiting"), "", "", "")
    console.print(table)
    if loaded.archived:
        console.print(f"[dim]archived in {escape(loaded.archived)}[/]", soft_wrap=True)
    if loaded.erased:
        console.print("its payloads were erased")
    elif row.status == "completed":
        console.print(f"result {escape(state.result().text.decode())}", soft_wrap=True)
    if row.status != "completed" and (error := _run_error(row, state)):
        console.print(f"[red]{escape(error)}[/]", soft_wrap=True)


def _attempts(task: TaskRow) -> str:
    said = [str(task.attempt)]
    if task.failures:
        said.append(f"{task.failures} failed")
    if task.interruptions:
        said.append(f"{task.interruptions} interrupted")
    return ", ".join(said)

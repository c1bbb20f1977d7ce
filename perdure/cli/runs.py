"""``perdure runs``."""

from rich.markup import escape
from rich.table import Table

from perdure.cli import exits
from perdure.cli.looking import looking
from perdure.cli.output import emit, people, remark, utc
from perdure.cli.place import find_app
from perdure.cli.verb import Common
from perdure.cli.words import ago, between, shortened, status
from perdure_projections.queries import RunRow, list_runs

_STATUSES = ("open", "paused", "stopping", "completed", "failed", "timed_out", "cancelled")


async def print_runs(common: Common, wanted: str | None, workflow: str | None, limit: int) -> int:
    """The verb."""
    if wanted is not None and wanted not in _STATUSES:
        raise exits.WrongUse(f"--status takes one of {', '.join(_STATUSES)}, not {wanted!r:.60}")
    async with looking(find_app(common)) as client:
        rows = await list_runs(client.engine, client.schema, wanted, workflow, limit)
    if common.json:
        for row in rows:
            emit(_as_json(row))
    elif rows:
        people().print(_table(rows))
    else:
        remark("there is no such run" if wanted or workflow else "there is no run yet")
    return exits.DONE


def _as_json(row: RunRow) -> dict[str, object]:
    return {
        "run_id": row.run,
        "workflow_id": row.workflow_id,
        "status": row.status,
        "started_at": utc(row.started_at),
        "ended_at": utc(row.ended_at),
        "key": row.key,
        "error": row.error,
    }


def _table(rows: list[RunRow]) -> Table:
    table = Table(
        "run", "workflow", "status", "started", "took", "tasks", "error", box=None, pad_edge=False, header_style="bold"
    )
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(
            str(row.run),
            row.workflow_id,
            status(row.status),
            ago(row.started_at),
            between(row.started_at, row.ended_at),
            str(row.tasks),
            escape(shortened(row.error or "")),
        )
    return table

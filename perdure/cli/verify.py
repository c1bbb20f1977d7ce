"""``perdure verify``: the check of the log."""

from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure.cli import exits
from perdure.cli.looking import looking
from perdure.cli.output import emit, people, remarks
from perdure.cli.place import find_app
from perdure.cli.verb import Common
from perdure_eventstore.database import raw_connection
from perdure_eventstore.verify import Progress as Checked
from perdure_eventstore.verify import verify


async def check_log(common: Common) -> int:
    """The verb. The first event that is not what was recorded is named."""
    async with looking(find_app(common), views=False) as client:
        checked = await check(client.engine, client.schema, show=remarks().is_terminal and not common.json)
    if common.json:
        emit(_as_json(checked))
    elif checked.fault is None:
        people().print(f"[green]every hash is right:[/] {checked.events} events in {checked.streams} streams")
    if checked.fault is not None:
        raise exits.Failed(f"the log was changed at {checked.fault}")
    return exits.DONE


async def check(engine: AsyncEngine, schema: str, *, show: bool = False) -> Checked:
    """Check every chain, with a bar on standard error if ``show``. Raises LogError."""
    checked = Checked(0, 0)
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with raw_connection(engine) as connection:
        cursor = await connection.execute(f'select coalesce(max(position), 0) from "{schema}".events')
        row = await cursor.fetchone()
        with Progress(*columns, console=remarks(), transient=True, disable=not show) as bar:
            task = bar.add_task("checking", total=row[0] if row else None)
            async for checked in verify(connection, schema):
                bar.update(task, completed=checked.events)
    return checked


def _as_json(checked: Checked) -> dict[str, Any]:
    fault = checked.fault._asdict() if checked.fault else None
    return {"events": checked.events, "streams": checked.streams, "fault": fault}

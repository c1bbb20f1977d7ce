"""``perdure doctor``: the working set held against the log."""

from datetime import datetime
from typing import Any
from uuid import UUID

from rich.markup import escape

from perdure.cli import exits
from perdure.cli.looking import looking
from perdure.cli.output import emit, people, remark, utc
from perdure.cli.place import find_app
from perdure.cli.verb import Common
from perdure_engine.doctor.doctor import Diagnosis
from perdure_engine.doctor.faults import Fault, Row


async def check_working_set(common: Common, repair: bool) -> int:
    """The verb. Every row that is not as the log says is named."""
    async with looking(find_app(common), views=False) as client:
        diagnosis = await client.doctor(repair=repair)
    for sentence in diagnosis.remarks:
        remark(sentence)
    for fault in diagnosis.faults:
        rebuilt = fault not in diagnosis.left
        if common.json:
            emit(_as_json(fault, rebuilt))
        else:
            people().print(f"[{'yellow' if rebuilt else 'red'}]{escape(str(fault))}[/]", soft_wrap=True)
    if not common.json and not diagnosis.left:
        people().print(_summary(diagnosis))
    if diagnosis.left:
        raise exits.Failed(_conclusion(diagnosis))
    return exits.DONE


def _summary(diagnosis: Diagnosis) -> str:
    if diagnosis.faults:
        return f"[green]rebuilt as the log says:[/] {_rows(len(diagnosis.faults))}"
    return "[green]the working set is what the log says[/]"


def _conclusion(diagnosis: Diagnosis) -> str:
    if diagnosis.repaired:
        return f"{_rows(len(diagnosis.left))} could not be rebuilt"
    return (
        f"the working set is not what the log says: {_rows(len(diagnosis.left))}; `perdure doctor --repair` rebuilds it"
    )


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _as_json(fault: Fault, rebuilt: bool) -> dict[str, Any]:
    return {
        "table": fault.table,
        "row": _plain(fault.where),
        "there": _plain(fault.there),
        "log": _plain(fault.log),
        "why": fault.why,
        "lost": fault.lost,
        "rebuilt": rebuilt,
    }


def _plain(row: Row | None) -> Row | None:
    return None if row is None else {column: _value(value) for column, value in row.items()}


def _value(value: Any) -> Any:
    return utc(value) if isinstance(value, datetime) else str(value) if isinstance(value, UUID) else value

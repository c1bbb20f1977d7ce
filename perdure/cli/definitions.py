"""``perdure definitions`` and ``perdure retire``."""

from rich.table import Table

from perdure.cli import exits
from perdure.cli.looking import looking
from perdure.cli.output import emit, people, remark
from perdure.cli.place import find_app
from perdure.cli.verb import Common
from perdure.cli.words import status
from perdure_engine.registry import Registration


async def list_definitions(common: Common, workflow: str | None) -> int:
    """The verb ``definitions``."""
    async with looking(find_app(common), views=False) as client:
        versions = await client.registry.versions(workflow)
    if common.json:
        for each in versions:
            emit({**each._asdict(), "state": _state(each, versions)})
        return exits.DONE
    if not versions:
        raise exits.WrongUse(f"there is no workflow {workflow}") if workflow else exits.Failed("no workflow is there")
    table = Table("workflow", "version", "state", "digest", "position", box=None, pad_edge=False, header_style="bold")
    for each in versions:
        state = status(_state(each, versions))
        table.add_row(each.workflow_id, str(each.number), state, each.digest[:16], str(each.registered_at))
    people().print(table)
    return exits.DONE


async def retire_workflow(common: Common, workflow: str) -> int:
    """The verb ``retire``."""
    async with looking(find_app(common), views=False) as client:
        await client.registry.retire(workflow)
    if common.json:
        emit({"workflow_id": workflow, "state": "retired"})
    else:
        remark(f"{workflow} starts no more runs; register it again to undo that")
    return exits.DONE


def _state(version: Registration, versions: list[Registration]) -> str:
    """Whether this is the version that new runs are started on."""
    if version.retired_at is not None:
        return "retired"
    newest = max(each.number for each in versions if each.workflow_id == version.workflow_id)
    return "active" if version.number == newest else "replaced"

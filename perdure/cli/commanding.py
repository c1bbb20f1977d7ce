"""``perdure cancel``, ``pause`` and ``resume``."""

from perdure.cli import exits
from perdure.cli.data import text
from perdure.cli.looking import looking
from perdure.cli.nodes import live_nodes
from perdure.cli.output import emit, remark, warn
from perdure.cli.place import find_app
from perdure.cli.run_names import find_run, full_id
from perdure.cli.verb import Common
from perdure_engine.staging import Command

_ASKED: dict[Command, str] = {"cancel": "stop", "pause": "pause", "resume": "go on"}
_LATER: dict[Command, str] = {"cancel": "cancelled", "pause": "paused", "resume": "resumed"}


async def command_run(common: Common, command: Command, name: str, reason: str) -> int:
    """The verbs. They ask; the run's node does it."""
    text("--reason", reason)
    async with looking(find_app(common), views=full_id(name) is None) as client:
        run = await find_run(client, name)
        await client.command(run, command, reason)
        if not (await live_nodes(client)).nodes:
            warn(f"no node is running: it will be {_LATER[command]} once `perdure up` runs")
        if common.json:
            emit({"run_id": run, "command": command})
        else:
            remark(f"run {run} is asked to {_ASKED[command]}")
    return exits.DONE

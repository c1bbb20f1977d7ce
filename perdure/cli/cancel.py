"""``perdure cancel``."""

from perdure.cli import exits
from perdure.cli.data import text
from perdure.cli.looking import looking
from perdure.cli.nodes import live_nodes
from perdure.cli.output import emit, remark, warn
from perdure.cli.place import find_app
from perdure.cli.run_names import find_run, full_id
from perdure.cli.verb import Common


async def cancel_run(common: Common, name: str, reason: str) -> int:
    """The verb. It asks; the run's node does it."""
    text("--reason", reason)
    async with looking(find_app(common), views=full_id(name) is None) as client:
        run = await find_run(client, name)
        await client.cancel(run, reason)
        if not (await live_nodes(client)).nodes:
            warn("no node is running: it will be cancelled once `perdure up` runs")
        if common.json:
            emit({"run_id": run, "command": "cancel"})
        else:
            remark(f"run {run} is asked to stop")
    return exits.DONE

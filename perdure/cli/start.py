"""``perdure start``."""

from perdure.cli import exits
from perdure.cli.data import read_data, text
from perdure.cli.looking import catch_up, looking
from perdure.cli.nodes import live_nodes
from perdure.cli.output import emit, people, remark, remarks, warn
from perdure.cli.place import find_app
from perdure.cli.run_names import parse_id
from perdure.cli.show import exit_status, print_run
from perdure.cli.verb import Common
from perdure.cli.words import seconds
from perdure.errors import StillOpen


async def start_run(
    common: Common,
    workflow: str,
    input_: str,
    run_id: str | None,
    event: str | None,
    key: str | None,
    wait: bool,
    timeout: str | None,
) -> int:
    """The verb."""
    payload, own_id, limit = read_data(input_), parse_id("--run-id", run_id), seconds(timeout)
    text("--event", event), text("--key", key)
    async with looking(find_app(common), views=False) as client:
        run = await client.start(workflow, payload, event, key, own_id)
        if not (await live_nodes(client)).nodes:
            warn("no node is running: the run is recorded, and goes on once `perdure up` runs")
        if not wait:
            if common.json:
                emit({"run_id": run.run_id, "workflow_id": workflow})
            else:
                people().print(str(run.run_id), soft_wrap=True)
            return exits.DONE
        try:
            with remarks().status("running"):
                await client.wait(run.run_id, limit)
        except StillOpen as error:
            remark(str(error))
        await catch_up(client.engine, client.schema)
        return exit_status(await print_run(common, client, run.run_id))

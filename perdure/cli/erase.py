"""``perdure erase``: what a run or a published event was given and gave, out of the log."""

from pathlib import Path

from perdure.cli import exits
from perdure.cli.looking import catch_up, looking
from perdure.cli.output import emit, people
from perdure.cli.place import find_app
from perdure.cli.run_names import find_run, full_id
from perdure.cli.verb import Common


async def erase_run(common: Common, name: str, reason: str, actor: str, archive: str | None) -> int:
    """The verb. A whole id may also be that of a published event."""
    async with looking(find_app(common), views=full_id(name) is None) as client:
        erased = await client.erase(await find_run(client, name), reason, actor, Path(archive) if archive else None)
        # The texts of its errors are in the views until these have heard of it.
        await catch_up(client.engine, client.schema)
    if common.json:
        emit({"stream": erased.stream, "payloads": erased.payloads})
    else:
        people().print(f"{erased.payloads} payloads of {erased.stream} are erased", soft_wrap=True)
    return exits.DONE

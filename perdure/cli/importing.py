"""``perdure import``: events into the log."""

from perdure.cli import exits
from perdure.cli.files import read
from perdure.cli.looking import looking
from perdure.cli.output import emit, people
from perdure.cli.place import find_app
from perdure.cli.transferring import bar
from perdure.cli.verb import Common
from perdure_engine.imported import ImportedWork
from perdure_eventstore.transfer.importing import import_file


async def import_events(common: Common, name: str) -> int:
    """The verb."""
    app = find_app(common)
    with read(name) as file:
        async with looking(app, views=False) as client:
            with bar(common, "importing") as progress:
                done = await import_file(client.engine, file, ImportedWork(client.schema), progress)
    if common.json:
        emit(done._asdict())
    else:
        skipped = f", {done.skipped} were there already" if done.skipped else ""
        people().print(f"{done.events} events imported from {done.log}, {done.streams} streams begin there{skipped}")
    return exits.DONE

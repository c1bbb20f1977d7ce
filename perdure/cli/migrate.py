"""``perdure migrate``."""

from perdure.cli import exits
from perdure.cli.output import emit, people
from perdure.cli.place import find_app
from perdure.cli.verb import Common
from perdure.database import opened, upgrade
from perdure.migrate import REVISION
from perdure.roles import grant_node


async def migrate_database(common: Common, role: str | None) -> int:
    """The verb. Safe to run again, and from several machines at once."""
    app = find_app(common)
    await upgrade(app.database_name, app.schema)
    if role is not None:
        async with opened(app.database_name, app.schema) as engine:
            await grant_node(engine, app.schema, role)
    if common.json:
        emit({"schema": app.schema, "version": REVISION})
    else:
        people().print(f"the schema {app.schema} is at version {REVISION}")
    return exits.DONE

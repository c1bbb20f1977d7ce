"""``perdure migrate``."""

from perdure.cli import exits
from perdure.cli.output import emit, people
from perdure.cli.place import find_app
from perdure.cli.verb import Common
from perdure.database import upgrade
from perdure.migrate import REVISION


async def migrate_database(common: Common) -> int:
    """The verb. Safe to run again, and from several machines at once."""
    app = find_app(common)
    await upgrade(app.database_name, app.schema)
    if common.json:
        emit({"schema": app.schema, "version": REVISION})
    else:
        people().print(f"the schema {app.schema} is at version {REVISION}")
    return exits.DONE

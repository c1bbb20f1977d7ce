"""``perdure schema``."""

import json

from perdure.cli import exits
from perdure.cli.event_schema import event_schema
from perdure.cli.output import emit
from perdure.cli.verb import Common
from perdure_engine.definitions.schema import definition_schema


def print_schema(common: Common, events: bool) -> int:
    """The verb: one line with ``--json``, and else laid out to be read."""
    schema = event_schema() if events else definition_schema()
    if common.json:
        emit(schema)
    else:
        print(json.dumps(schema, indent=2, ensure_ascii=False))
    return exits.DONE

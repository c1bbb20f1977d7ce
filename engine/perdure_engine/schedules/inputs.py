"""What a schedule's run is given: its input, and for which time it was started."""

from datetime import datetime
from typing import Final

import orjson

from perdure_engine.schedules.schedule import Schedule
from perdure_eventstore.door import Json

FIELD: Final = "schedule"


def input_for(schedule: Schedule, given: Json, due: datetime) -> Json:
    """``given``, and beside its fields one named ``schedule``: the schedule's name, and ``due`` on its zone's clocks.

    What is no object, or has such a field of its own, is left as it is. The rest of the text stays as it was written.
    """
    if not isinstance(given.value, dict) or FIELD in given.value:
        return given
    told = orjson.dumps({"name": schedule.name, "due": schedule.times.local(due)})
    fields = given.text.rstrip()[:-1].rstrip()
    return Json(fields + (b"," if given.value else b"") + b'"schedule":' + told + b"}")

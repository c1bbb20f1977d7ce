"""The rows of schedules made anew from the log: for an import, and to compare."""

from uuid import UUID

import orjson

from perdure_engine.facts import decode_fact
from perdure_engine.kinds import types_of
from perdure_engine.schedules.rows import row_of
from perdure_engine.schedules.schedule import Schedule, evolve
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

_TYPES = types_of("schedule")


async def fold(reader: Reader, stream: UUID) -> Schedule | None:
    """The schedule as its events leave it; None for one that was deleted. Payloads are not looked at."""
    schedule: Schedule | None = None
    async for recorded in reader.stream(stream, payloads=False):
        if recorded.type in _TYPES:
            # What is encrypted, or large, is no part of a schedule's state.
            schedule = evolve(schedule, decode_fact(recorded._replace(payload=None)), stream, recorded.version)
    return schedule


async def rewrite(session: Session, schema: str, first: int) -> None:
    """Write the rows of the schedules that have events from position ``first`` on. Raises LogError."""
    found = await session.fetch(
        f'select distinct stream from "{schema}".events where position >= %s and type = any(%s)',
        (first, sorted(_TYPES)),
    )
    reader = Reader(session, schema)
    rows = [
        {"a": 1, **row}
        for (stream,) in found
        for row in row_of(stream, await fold(reader, stream), tell=False)["schedules"]
    ]
    if rows:
        await session.fetch(
            f"""select "{schema}".write_schedules(%s::text::json, '{{}}')""", (orjson.dumps(rows).decode(),)
        )

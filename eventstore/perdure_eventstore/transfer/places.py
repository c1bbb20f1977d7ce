"""Places in the log by time, and which log it is."""

from datetime import datetime

from perdure_eventstore.heads import origin
from perdure_eventstore.session import Session


async def log_origin(session: Session, schema: str = "perdure") -> str:
    """The name of the log, as its heads bear it. Raises LogError."""
    return origin((await session.fetch(f'select log_id from "{schema}".identity'))[0][0])


async def position_before(session: Session, moment: datetime, schema: str = "perdure") -> int:
    """The position after which what was recorded at ``moment`` or later begins; that of the last event if nothing was.

    Positions and times do not agree to the µs: what lies between two such events is kept together. Raises LogError.
    """
    rows = await session.fetch(
        f'select position from "{schema}".events where recorded_at >= %s order by position limit 1', (moment,)
    )
    if rows:
        return int(rows[0][0]) - 1
    return int((await session.fetch(f'select coalesce(max(position), 0) from "{schema}".events'))[0][0])

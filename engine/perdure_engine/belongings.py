"""What a run cannot do without in another log."""

from collections.abc import Sequence
from uuid import UUID

from perdure_engine.history import RunArchived, UnknownRun
from perdure_engine.identity import workflow_stream
from perdure_eventstore.keeper import ARCHIVED
from perdure_eventstore.session import Session


async def definition_streams(session: Session, runs: Sequence[UUID], schema: str = "perdure") -> list[UUID]:
    """The streams of the definitions of ``runs``. Raises UnknownRun for the first that is not there, LogError."""
    rows = await session.fetch(
        f"""select stream, data ->> 'workflow_id' from "{schema}".events
        where stream = any(%s) and version = 1 and type = 'RunStarted'""",
        (list(runs),),
    )
    found = dict(rows)
    for run in runs:
        if run not in found:
            left = f'select data from "{schema}".events where stream = %s and type = %s order by version limit 1'
            for (data,) in await session.fetch(left, (run, ARCHIVED)):
                raise RunArchived(run, data)
            raise UnknownRun(run)
    return sorted({workflow_stream(workflow_id) for workflow_id in found.values()})

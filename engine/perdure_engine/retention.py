"""Which streams nobody needs any more: runs that ended long ago, and published events that were routed long ago."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from perdure_engine.run import events as e
from perdure_eventstore.session import Session

_PAGE = 1_000
_ENDED = ", ".join(f"'{kind.__name__}'" for kind in e.RUN_ENDED)


class Old(NamedTuple):
    """What may be archived: nothing was recorded of it since ``before``, and all of it lies up to ``position``."""

    before: datetime
    position: int
    workflow: str | None = None
    """Runs of this workflow alone, and no published events."""


class Retention:
    """Walks the log from its beginning. What is archived lies there no more, so a walk costs what is left."""

    def __init__(self, session: Session, schema: str = "perdure") -> None:
        self._session = session
        events, inbox, open_runs = f'"{schema}".events', f'"{schema}".inbox', f'"{schema}".open_runs'
        self._begun = f"""select position, stream from {events}
            where position > %s and position <= %s and version = 1 and recorded_at < %s
                and (type = 'RunStarted' and (%s::text is null or data ->> 'workflow_id' = %s)
                     or type in ('EventPublished', 'StartRequested') and %s::text is null)
            order by position limit {_PAGE}"""
        # A run that ended, or an event that was routed, and whatever came after that, is older than the limit.
        self._over = f"""select s.stream from unnest(%s::uuid[]) with ordinality s(stream, n)
            cross join lateral (
                select max(position) as last, max(recorded_at) as at,
                    bool_or(type in ({_ENDED}, 'EventRouted')) as over
                from {events} where stream = s.stream
            ) e
            where e.over and e.at < %s and e.last <= %s
                and not exists (select from {open_runs} r where r.run = s.stream)
                and not exists (select from {inbox} i where i.run = s.stream or i.event = s.stream)
            order by s.n"""

    async def pages(self, old: Old) -> AsyncIterator[list[UUID]]:
        """The streams, in the order in which they began. Raises LogError."""
        after, workflow = 0, old.workflow
        while True:
            rows = await self._session.fetch(
                self._begun, (after, old.position, old.before, workflow, workflow, workflow)
            )  # fmt: skip
            if not rows:
                return
            after = rows[-1][0]
            over = await self._session.fetch(self._over, ([stream for _, stream in rows], old.before, old.position))
            yield [stream for (stream,) in over]

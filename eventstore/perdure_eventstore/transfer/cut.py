"""Up to where an export reads: everything that is settled, and whole appends only."""

import asyncio
from typing import NamedTuple

from perdure_eventstore.errors import LogUnavailable
from perdure_eventstore.session import Session
from perdure_eventstore.settled import SettledMark

_PATIENCE = 30.0
"""Seconds to wait for writers that were there before."""
_POLL = 0.005


class Cut(NamedTuple):
    """A state of the log: every event up to ``mark``, and of what was committed beyond it these ``beyond``.

    Positions of appends that commit at once lie between each other, so an append may stand on both sides of the mark;
    without its second half a run would have completed a task and not scheduled what follows.
    """

    mark: int
    beyond: list[int]

    @property
    def last(self) -> int:
        """The highest position in it."""
        return self.beyond[-1] if self.beyond else self.mark


async def cut_now(session: Session, schema: str = "perdure") -> Cut:
    """The state that holds whatever was acknowledged before the call. Raises LogError, on a standby too."""
    mark = SettledMark(session, schema)
    await mark.check()
    last = f'select coalesce(max(position), 0) from "{schema}".events'
    highest = (await session.fetch(last))[0][0]
    try:
        async with asyncio.timeout(_PATIENCE):
            while await mark.advance() < highest:
                await asyncio.sleep(_POLL)
    except TimeoutError:
        raise LogUnavailable(
            f"a transaction has been writing to the log for {_PATIENCE:.0f} s; export once it has ended"
        ) from None
    beyond = f'select position from "{schema}".events where position > %s order by position'
    return Cut(mark.position, [position for (position,) in await session.fetch(beyond, (mark.position,))])

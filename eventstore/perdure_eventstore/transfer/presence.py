"""Who reads the log page by page, and who removes from it: never both at once, or a stream would be read in part.

Locks of the session: the server gives them back when its connection ends, however that comes about.
"""

import asyncio

from perdure_eventstore.errors import LogUnavailable
from perdure_eventstore.session import Session

_PATIENCE = 30.0
"""Seconds to wait for somebody who removes."""
_POLL = 0.05


async def keep_all(session: Session, schema: str = "perdure") -> None:
    """Nothing is removed from the log from now on, until ``session`` is closed. Raises LogError.

    On a standby it holds nothing back: what was removed on its primary is removed there too.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            while not await _locked(session, "pg_try_advisory_lock_shared", schema):
                await asyncio.sleep(_POLL)
    except TimeoutError:
        raise LogUnavailable(
            f"somebody has been archiving this log for {_PATIENCE:.0f} s; export once that has ended"
        ) from None


async def may_remove(session: Session, schema: str = "perdure") -> bool:
    """Whether ``session`` alone may remove, until it is closed: nobody else does, or is reading. Raises LogError."""
    return await _locked(session, "pg_try_advisory_lock", schema)


async def _locked(session: Session, function: str, schema: str) -> bool:
    return bool((await session.fetch(f"select {function}(hashtext(%s))", (f"{schema}.archive",)))[0][0])

"""Which events are rightly gone: those of streams that retention archived, as each stream's last event says."""

from collections.abc import Sequence
from typing import Any, Final

import orjson

from perdure_eventstore.session import Session

ARCHIVED: Final = "StreamArchived"
"""The type of the event that stands for a stream's earlier ones, which were removed. Its data say how many those were
("versions"), the hash of the last of them ("head", in hex) and where they were ("positions": [[first, last], …])."""


class Archived:
    """Asks ``archived_streams`` which streams may have had events somewhere, and believes their last events alone."""

    def __init__(self, session: Session, schema: str) -> None:
        self._session = session
        # The first event that is left of a stream that is archived is its StreamArchived.
        self._events = f"""select e.data from "{schema}".archived_streams(%s, %s) a(stream)
            join lateral (select data, type from "{schema}".events where stream = a.stream
                order by version limit 1) e on e.type = '{ARCHIVED}'"""

    async def among(self, positions: Sequence[int]) -> set[int]:
        """Those of ``positions`` whose events were removed rightly. Raises LogError."""
        if not positions:
            return set()
        rows = await self._session.fetch(self._events, (min(positions), max(positions)))
        spans = [
            (first, last)
            for (data,) in rows
            for first, last in _positions(data)
            if last >= min(positions) and first <= max(positions)
        ]
        return {position for position in positions if any(first <= position <= last for first, last in spans)}


def _positions(data: bytes) -> list[tuple[int, int]]:
    try:
        found: Any = orjson.loads(data)["positions"]
        return [(int(first), int(last)) for first, last in found]
    except (ValueError, KeyError, TypeError):
        return []

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

    async def among(self, positions: Sequence[int]) -> dict[int, bytes | None]:
        """Those of ``positions`` whose events were removed rightly; with a stream's last one, the hash it had.

        Raises LogError.
        """
        if not positions:
            return {}
        low, high = min(positions), max(positions)
        found: dict[int, bytes | None] = {}
        for (data,) in await self._session.fetch(self._events, (low, high)):
            spans, head = _removed(data)
            near = [(first, last) for first, last in spans if last >= low and first <= high]
            found.update({p: None for p in positions if any(first <= p <= last for first, last in near)})
            if spans and spans[-1][1] in found:
                found[spans[-1][1]] = head
        return found


def _removed(data: bytes) -> tuple[list[tuple[int, int]], bytes]:
    """Where a stream's events were, and the last one's hash; nowhere, if these are not as many as the event says."""
    try:
        stated: Any = orjson.loads(data)
        spans = sorted((int(first), int(last)) for first, last in stated["positions"])
        head = bytes.fromhex(stated["head"])
        return (spans, head) if sum(last - first + 1 for first, last in spans) == stated["versions"] else ([], head)
    except (ValueError, KeyError, TypeError):
        return [], b""

"""The heads that a log must have had, in the order of their sizes: those in the database, and those kept outside."""

from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from perdure_eventstore.checking.faults import Fault, fault_of
from perdure_eventstore.heads import HeadRefused, TreeHead, is_signed_by, read_note
from perdure_eventstore.session import Session

_FETCHED = 256


class KnownHead(NamedTuple):
    """A head, and where it is from."""

    head: TreeHead
    where: str

    def __str__(self) -> str:
        return (
            f"the head of {self.head.size} events signed at {self.head.signed_at:%Y-%m-%d %H:%M:%S} UTC ({self.where})"
        )


def outside_heads(notes: Iterable[str], origin: str, keys: Sequence[Ed25519PublicKey], where: str) -> list[KnownHead]:
    """The heads of the log ``origin`` as they were published. Raises HeadRefused for others, or ill-signed ones."""
    heads = []
    for note in notes:
        known = KnownHead(read_note(note), where)
        if known.head.origin != origin:
            raise HeadRefused(f"{where} holds heads of another log: {known.head.origin}, and this one is {origin}")
        if keys and not any(is_signed_by(note, key) for key in keys):
            raise HeadRefused(f"{known} is not signed with the key given")
        heads.append(known)
    return sorted(heads, key=lambda known: known.head.size)


class Heads:
    """Gives the heads one after another, of both kinds, checking those in the database as they come."""

    def __init__(
        self, session: Session, schema: str, origin: str, keys: Sequence[Ed25519PublicKey], outside: Sequence[KnownHead]
    ) -> None:
        self._session, self._origin, self._keys = session, origin, keys
        self._outside = deque(outside)
        self._kept: deque[KnownHead] = deque()
        self._after, self._exhausted = 0, False
        self._select = f"""select size, position, root, note, signed_at from "{schema}".heads
            where size > %s order by size limit {_FETCHED}"""

    def skip(self, size: int) -> list[KnownHead]:
        """Leave out what is no larger than ``size``; those from outside are returned."""
        self._after = size
        skipped = []
        while self._outside and self._outside[0].head.size <= size:
            skipped.append(self._outside.popleft())
        return skipped

    async def next(self) -> KnownHead | Fault | None:
        """The smallest head left, which stays; a Fault where the database's is not a head. Raises LogError."""
        if not self._kept and not self._exhausted:
            rows = await self._session.fetch(self._select, (self._after,))
            self._exhausted = len(rows) < _FETCHED
            for row in rows:
                if isinstance(known := self._read(*row), Fault):
                    return known
                self._kept.append(known)
                self._after = row[0]
        return min(
            (queue[0] for queue in (self._outside, self._kept) if queue), key=lambda k: k.head.size, default=None
        )

    def drop(self, known: KnownHead) -> None:
        """Go on to the one after ``known``."""
        (self._outside if self._outside and self._outside[0] is known else self._kept).popleft()

    def _read(self, size: int, position: int, root: bytes, note: str, signed_at: datetime) -> KnownHead | Fault:
        stated: Any = TreeHead(self._origin, size, root, position, signed_at)
        try:
            known = KnownHead(read_note(note), "in the database")
        except HeadRefused as error:
            return fault_of(f"the head of {size} events in the database is none: {error}")
        if known.head != stated:
            return fault_of(f"{known} was changed: its note says something else than its row")
        if self._keys and not any(is_signed_by(note, key) for key in self._keys):
            return fault_of(f"{known} is not signed with the key given")
        return known

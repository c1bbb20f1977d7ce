"""The settled mark: up to which position the log can be read without missing an event that is still to come.

Positions are drawn from a sequence before their transaction commits, so a reader that goes by "position > n" passes
over an event whose transaction commits late. Every writer holds a lock on the sequence from before it draws its first
position to the end of its transaction, and Postgres lists those locks. So:

1. In one statement, read the highest visible position H and who holds the sequence's lock.
2. When each of *those* transactions is no longer listed, every position up to H is committed or never will be.
3. A snapshot begun after that sees all of them.

The rule waits for writers of the log alone, and it holds up none of them. See docs/decisions/0002.
"""

import asyncio
import time
from collections import deque
from typing import Any, NamedTuple

from perdure_eventstore.errors import LogError
from perdure_eventstore.session import Session

_MOST_PENDING = 8
_SETTLED_POLL = 0.01


class SettledMark:
    """Advances the mark. Whatever it remembers of a lost connection is discarded."""

    def __init__(self, session: Session, schema: str = "perdure") -> None:
        self.position = 0
        self._session = session
        self._connection = session.opened
        self._pending: deque[tuple[int, frozenset[str]]] = deque()
        sequence = f'"{schema}".events_position_seq'
        self._check = f"""select pg_is_in_recovery(),
            (select seqcache from pg_sequence where seqrelid = '{sequence}'::regclass)"""
        # A prepared transaction holds its locks with no process; its virtual transaction still names it.
        self._look = f"""select coalesce((select max(position) from "{schema}".events), 0),
            coalesce((select array_agg(virtualtransaction) from pg_locks
                where locktype = 'relation' and relation = '{sequence}'::regclass and mode = 'RowExclusiveLock'
                and database = (select oid from pg_database where datname = current_database())), '{{}}')"""

    async def check(self) -> None:
        """Raise LogError where the rule would not hold: on a standby, or with a sequence that caches."""
        recovering, cache = await self._row(self._check)
        if recovering:
            raise LogError("this server is a standby in recovery: the log is read from the primary")
        if cache != 1:
            raise LogError(f"the sequence of positions has CACHE {cache}; it must be 1, or the order is lost")

    async def advance(self) -> int:
        """Look once and return the mark; every event up to it is visible to a statement begun from now on."""
        highest, holders = await self._row(self._look)
        if self._session.opened != self._connection:
            # Another server, perhaps: the transactions remembered may bear other names now.
            self._pending.clear()
            self._connection = self._session.opened
        holding = frozenset(holders)
        while self._pending and not (self._pending[0][1] & holding):
            self.position = self._pending.popleft()[0]
        if not holding:
            self._pending.clear()
            self.position = max(self.position, highest)
        elif highest > (self._pending[-1][0] if self._pending else self.position):
            if len(self._pending) == _MOST_PENDING:
                self._pending.pop()
            self._pending.append((highest, holding))
        return self.position

    @property
    def pending(self) -> bool:
        """Whether a higher mark waits for somebody's commit."""
        return bool(self._pending)

    async def _row(self, statement: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] = (await self._session.fetch(statement))[0]
        return row


class SettledEnd(NamedTuple):
    """Up to where the log is settled. Not ``whole``: somebody may still be writing before its end."""

    position: int
    whole: bool


async def settled_end(session: Session, schema: str = "perdure", patience: float = 10.0) -> SettledEnd:
    """Up to where the log is settled now, waiting up to ``patience`` seconds for those who are writing.

    Where somebody holds a transaction open longer, the answer is what the tree already keeps, which was settled then.
    Raises LogError.
    """
    mark = SettledMark(session, schema)
    await mark.check()
    deadline = time.monotonic() + patience
    while True:
        position = await mark.advance()
        if position or not mark.pending:
            return SettledEnd(position, True)
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(_SETTLED_POLL)
    kept = await session.fetch(f'select last_position from "{schema}".tree_chunks order by number desc limit 1')
    return SettledEnd(kept[0][0] if kept else 0, False)

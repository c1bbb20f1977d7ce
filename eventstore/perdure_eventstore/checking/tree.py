"""The check of the tree: are the events those that it took in, in their places, and are the heads its heads?"""

from collections import deque
from collections.abc import Sequence
from struct import Struct
from typing import Any, Final, NamedTuple

from perdure_eventstore.checking.archived import Archived
from perdure_eventstore.checking.faults import Fault, fault_of
from perdure_eventstore.checking.heads import Heads, KnownHead
from perdure_eventstore.checking.rows import HASH, POSITION
from perdure_eventstore.merkle import CHUNK, CHUNK_LEVEL, LEAF_BYTES, CompactRange, leaf_hash
from perdure_eventstore.session import Session
from perdure_eventstore.tree import Chunk, split_leaves

_FETCHED = 16
"""Chunks asked for at once: 160 kB."""
_MOST_PENDING = 64 * CHUNK
_NODES = 4096
"""Nodes above the chunks that are compared with the table at once."""
_position: Final = Struct("!q").pack

INSERTED: Final = "the tree has no event here: it was inserted, or moved here"
ANOTHER: Final = "it is not the event that the tree took in here"
OTHER_END: Final = "a stream is archived as having ended here, and the tree took in another event"
MISSING: Final = "it is missing: the tree took in an event here, and no archived stream had it"


class Reached(NamedTuple):
    """A tree of complete chunks, the position of its last event, and how many heads up to there were right."""

    tree: CompactRange
    position: int
    heads: int


class TreeCheck:
    """Takes the settled log in, page by page, and checks it chunk by chunk; can go on from the end of any chunk."""

    def __init__(self, session: Session, schema: str, tree: CompactRange, position: int, heads: Heads) -> None:
        """``tree`` is that of the complete chunks so far, the last of which ends at ``position``."""
        self.tree, self.position = tree, position
        self.heads = 0
        """How many heads were found right."""
        self.reached = Reached(tree.copy(), position, 0)
        """Up to where the chunks are kept: another check, which compares their root, can go on there."""
        self.beyond = 0
        """Events after that which are in chunks."""
        self._session, self._heads = session, heads
        self._archived = Archived(session, schema)
        self._pending: list[bytes] = []
        self._trusted = 0
        self._chunks: deque[Chunk] = deque()
        self._exhausted = False
        self._unkept: int | None = None
        self._nodes: list[tuple[int, int, bytes]] = []
        self._next = f'select * from "{schema}".tree_chunks where number >= %s order by number limit {_FETCHED}'
        self._wrong_node = f"""select w.level, w.number
            from unnest(%s::smallint[], %s::bigint[], %s::bytea[]) as w(level, number, hash)
            left join "{schema}".tree_nodes t on t.level = w.level and t.number = w.number
            where t.hash is distinct from w.hash order by 1, 2 limit 1"""
        self._kept_since = f'select count(*) from "{schema}".tree_chunks where number >= %s and number < %s'
        self._event = f'select stream, version, type from "{schema}".events where position = %s'

    @property
    def pending(self) -> int:
        """Events taken in after what was reached."""
        return self.beyond + len(self._pending)

    async def take(self, rows: Sequence[Any], upto: int) -> Fault | None:
        """Take in the events of ``rows``, the last that there are up to position ``upto``. Raises LogError."""
        self._pending += [_position(row[POSITION]) + row[HASH] for row in rows]
        while True:
            chunk = await self._chunk()
            if isinstance(chunk, Fault):
                return chunk
            if chunk is None:
                if len(self._pending) < CHUNK:
                    return None
                leaves, used = self._pending[:CHUNK], CHUNK
            elif _at(chunk.leaves[-LEAF_BYTES:]) > upto and len(self._pending) < _MOST_PENDING:
                return None
            else:
                compared = await self._compare(chunk)
                if isinstance(compared, Fault):
                    return compared
                leaves, used = compared
            del self._pending[:used]
            if fault := await self._add(leaves, chunk):
                return fault
            if self._unkept is None:
                self.reached = Reached(self.tree.copy(), self.position, self.heads)
            else:
                self.beyond += used

    async def before(self, position: int) -> Fault | None:
        """What is wrong in the chunk under way before the event at ``position``, which has a fault of its own."""
        chunk = await self._chunk()
        if chunk is None or isinstance(chunk, Fault):
            return chunk
        compared = await self._compare(chunk, position)
        return compared if isinstance(compared, Fault) else None

    async def end(self, mark: int) -> Fault | None:
        """What is wrong at the end of the log, settled up to ``mark``: a tail cut off, a head of more than there is."""
        chunk = await self._chunk()
        if isinstance(chunk, Fault):
            return chunk
        leaves = self._pending
        if chunk is not None:
            # It may have become complete since; what it had up to the mark must be there all the same.
            compared = await self._compare(chunk, mark + 1)
            if isinstance(compared, Fault):
                return compared
            leaves, used = compared
            if used < len(self._pending):
                return await self._fault_at(_at(self._pending[used]), INSERTED)
        if fault := await self._check_nodes() or await self._check_heads(leaves):
            return fault
        known = await self._heads.next()
        if isinstance(known, Fault):
            return known
        if known is not None and known.head.position <= mark:
            short = known.head.size - self.tree.size - len(leaves)
            return fault_of(
                f"{known} has {short} events more than the log: as many were cut off or removed, after position "
                f"{self._trusted} and up to {known.head.position}"
            )
        return None

    async def _chunk(self) -> Chunk | Fault | None:
        """The kept chunk that comes next; None where the kept tree ends."""
        number = self.tree.size // CHUNK
        if not self._chunks and not self._exhausted:
            rows = await self._session.fetch(self._next, (number,))
            self._chunks.extend(Chunk._make(row) for row in rows)
            self._exhausted = len(rows) < _FETCHED
        if not self._chunks:
            return None
        chunk = self._chunks[0]
        if chunk.number != number:
            return fault_of(f"chunk {number} of the tree is missing, and chunk {chunk.number} is there")
        if len(chunk.leaves) != CHUNK * LEAF_BYTES:
            return fault_of(f"chunk {number} of the tree was changed: it has not {CHUNK} leaves")
        return chunk

    async def _compare(self, chunk: Chunk, upto: int | None = None) -> tuple[list[bytes], int] | Fault:
        """The leaves of ``chunk`` (those before position ``upto``), if the events are those it took in, and how many
        of the pending events they are."""
        if upto is None and b"".join(own := self._pending[:CHUNK]) == chunk.leaves:
            return own, CHUNK
        kept = split_leaves(chunk.leaves)
        if upto is not None:
            kept = [leaf for leaf in kept if _at(leaf) < upto]
        removed = await self._archived.among([_at(leaf) for leaf in set(kept) - set(self._pending)])
        at = 0
        for leaf in kept:
            found = self._pending[at] if at < len(self._pending) else None
            if found == leaf:
                at += 1
            elif found is not None and _at(found) <= _at(leaf):
                return await self._fault_at(_at(found), INSERTED if _at(found) < _at(leaf) else ANOTHER)
            elif _at(leaf) not in removed:
                return Fault(_at(leaf), None, None, None, MISSING)
            elif (head := removed[_at(leaf)]) is not None and head != leaf[8:]:
                return Fault(_at(leaf), None, None, None, OTHER_END)
        return kept, at

    async def _add(self, leaves: Sequence[bytes], kept: Chunk | None) -> Fault | None:
        """Add a chunk of leaves that are right, and check the heads signed within it."""
        chunk = Chunk.of(self.tree.size // CHUNK, leaves)
        if kept is None:
            self._unkept = chunk.number if self._unkept is None else self._unkept
        elif kept != chunk:
            return fault_of(
                f"chunk {chunk.number} of the tree (positions {chunk.first_position} to {chunk.last_position}) was "
                "changed: its root or its positions are not those of its leaves"
            )
        else:
            self._chunks.popleft()
        if fault := await self._check_heads(leaves):
            return fault
        closed = self.tree.append_subtree(CHUNK_LEVEL, chunk.root)
        self.position = chunk.last_position
        if kept is not None:
            self._nodes += closed
        return await self._check_nodes() if len(self._nodes) >= _NODES else None

    async def _check_heads(self, leaves: Sequence[bytes]) -> Fault | None:
        """Check the heads whose last event is among ``leaves``, which come next."""
        tree, at = self.tree.copy(), 0
        while known := await self._heads.next():
            if isinstance(known, Fault):
                return known
            if known.head.size > self.tree.size + len(leaves):
                break
            for leaf in leaves[at : known.head.size - self.tree.size]:
                tree.append(leaf_hash(leaf))
                at += 1
            if fault := await self._compare_head(known, tree.root, _at(leaves[at - 1]) if at else self.position):
                return fault
            self._heads.drop(known)
        return None

    async def _compare_head(self, known: KnownHead, root: bytes, position: int) -> Fault | None:
        head = known.head
        if head.root != root:
            return fault_of(
                f"{known} has another root: after position {self._trusted} and up to {head.position}, an event was "
                "changed, moved, inserted or removed"
            )
        if head.position != position:
            return fault_of(f"{known} names position {head.position}, and its last event is at {position}")
        if self._unkept is not None and (over := head.size // CHUNK) > self._unkept:
            # What was not kept when it was looked for may be by now, with the head signed over it after that.
            ((kept,),) = await self._session.fetch(self._kept_since, (self._unkept, over))
            if kept != over - self._unkept:
                return fault_of(f"chunk {self._unkept} of the tree is missing, and {known} was signed over it")
        self._trusted = position
        self.heads += 1
        return None

    async def _check_nodes(self) -> Fault | None:
        """Compare the nodes above the chunks, as far as they are known by now, with those kept."""
        if not self._nodes:
            return None
        levels, numbers, hashes = zip(*self._nodes, strict=True)
        self._nodes = []
        wrong = (list(levels), list(numbers), list(hashes))
        for level, number in await self._session.fetch(self._wrong_node, wrong):
            return fault_of(f"node {number} of level {level} of the tree is missing or was changed")
        return None

    async def _fault_at(self, position: int, reason: str) -> Fault:
        rows = await self._session.fetch(self._event, (position,))
        stream, version, type_ = rows[0] if rows else (None, None, None)
        return Fault(position, stream, version, type_, reason)


def _at(leaf: bytes) -> int:
    return int.from_bytes(leaf[:8])

"""The Merkle tree over the settled log, as it is kept: it grows by complete chunks, and gives roots and proofs.

What makes no complete chunk yet, fewer than 256 events, is taken from the events themselves.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from perdure_eventstore.errors import LogError
from perdure_eventstore.merkle import (
    CHUNK,
    CHUNK_LEVEL,
    LEAF_BYTES,
    CompactRange,
    Inclusion,
    Node,
    Range,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    range_root,
    subtree_root,
    subtrees,
)
from perdure_eventstore.session import Session

BATCH_CHUNKS = 16
"""Chunks kept by one statement: 5 ms of a process that has other things to do."""


class TreeFault(LogError):
    """The tree that is kept is not the tree of this log."""


class Extent(NamedTuple):
    """How far a tree reaches: its leaves, and the position of the last of them (0: none)."""

    size: int
    position: int


class Chunk(NamedTuple):
    """A row of tree_chunks: 256 leaves, each a position and a hash, and their root."""

    number: int
    first_position: int
    last_position: int
    leaves: bytes
    root: bytes

    @classmethod
    def of(cls, number: int, leaves: Sequence[bytes]) -> "Chunk":
        """The chunk of 256 leaves' bytes."""
        first, last = (int.from_bytes(leaf[:8]) for leaf in (leaves[0], leaves[-1]))
        hashes = [sha256(b"\0" + leaf).digest() for leaf in leaves]
        return cls(number, first, last, b"".join(leaves), subtree_root(hashes))

    @property
    def hashes(self) -> list[bytes]:
        """The hashes of its leaves, in order."""
        return [leaf_hash(leaf) for leaf in split_leaves(self.leaves)]


def split_leaves(leaves: bytes) -> list[bytes]:
    """The leaves of a chunk one by one."""
    return [leaves[i : i + LEAF_BYTES] for i in range(0, len(leaves), LEAF_BYTES)]


class Tree:
    """Grows the tree and asks it, through one session. Any number of processes may, at once."""

    def __init__(self, session: Session, schema: str = "perdure") -> None:
        self._session = session
        self._end = f'select number, last_position from "{schema}".tree_chunks order by number desc limit 1'
        self._leaves = f"""select int8send(position) || hash from "{schema}".events
            where position > %s and position <= %s order by position limit %s"""
        # In one statement: it takes no lock before its whole message has arrived, and needs no client to finish.
        self._write = f"""with chunks as (insert into "{schema}".tree_chunks
                select * from unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bytea[], %s::bytea[])
                on conflict (number) do nothing returning 1),
            nodes as (insert into "{schema}".tree_nodes select * from unnest(%s::smallint[], %s::bigint[], %s::bytea[])
                on conflict (level, number) do nothing returning 1)
            select (select count(*) from chunks) + (select count(*) from nodes)"""
        self._chunks = f'select * from "{schema}".tree_chunks where number = any(%s) order by number'
        self._roots = f'select number, root from "{schema}".tree_chunks where number = any(%s)'
        self._nodes = f"""select level, number, hash from "{schema}".tree_nodes
            where (level, number) in (select * from unnest(%s::smallint[], %s::bigint[]))"""
        self._owners = f"""select distinct c.number from unnest(%s::bigint[]) as wanted(position)
            cross join lateral (select number from "{schema}".tree_chunks where first_position <= wanted.position
                order by first_position desc limit 1) c"""

    async def grow(self, mark: int) -> Extent:
        """Keep every complete chunk of the events up to the settled ``mark``; the extent of the tree up to there.

        Raises TreeFault where another process kept something else, and LogError.
        """
        while await self.grow_once(mark):
            pass
        kept = await self.kept()
        rest = await self._rest(kept.position, mark)
        return Extent(kept.size + len(rest), int.from_bytes(rest[-1][:8]) if rest else kept.position)

    async def grow_once(self, mark: int) -> int:
        """Keep at most 16 chunks, and return how many there were to keep. Raises TreeFault, LogError."""
        kept = await self.kept()
        rows = await self._session.fetch(self._leaves, (kept.position, mark, BATCH_CHUNKS * CHUNK))
        leaves, number = [row[0] for row in rows], kept.size // CHUNK
        chunks = [
            Chunk.of(number + i // CHUNK, leaves[i : i + CHUNK]) for i in range(0, len(leaves) - CHUNK + 1, CHUNK)
        ]
        if chunks:
            await self._keep(chunks, await self._closed_by(kept.size, chunks))
        return len(chunks)

    async def kept(self) -> Extent:
        """The extent of the complete chunks. Only events up to here may ever be removed from the log."""
        rows = await self._session.fetch(self._end)
        return Extent((rows[0][0] + 1) * CHUNK, rows[0][1]) if rows else Extent(0, 0)

    async def root_at(self, size: int) -> bytes:
        """The root over the first ``size`` leaves; as many must be settled, and ``grow`` called since. Raises
        TreeFault."""
        return range_root((0, size), await self._known([(0, size)]))

    async def inclusions(self, positions: Sequence[int], size: int) -> list[Inclusion]:
        """The proof for each event that it is in the tree of ``size`` leaves. Give some 1,000 at a time, not all.

        Raises TreeFault for a position that is not in it.
        """
        indexes = await self._indexes(positions, size)
        ranges = [inclusion_ranges(index, size) for index in indexes]
        known = await self._known({one for each in ranges for one in each})
        return [
            Inclusion(position, index, size, [range_root(one, known) for one in each])
            for position, index, each in zip(positions, indexes, ranges, strict=True)
        ]

    async def inclusion(self, position: int, size: int) -> Inclusion:
        """The proof that the event at ``position`` is in the tree of ``size`` leaves. Raises TreeFault."""
        return (await self.inclusions([position], size))[0]

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree of ``new`` leaves begins with that of ``old``. Raises TreeFault."""
        ranges = consistency_ranges(old, new)
        known = await self._known(ranges)
        return [range_root(one, known) for one in ranges]

    async def _closed_by(self, size: int, chunks: Sequence[Chunk]) -> list[tuple[int, int, bytes]]:
        """The subtrees above ``chunks`` that become complete with them."""
        peaks = list(subtrees((0, size)))
        known = await self._known([(0, size)])
        above = CompactRange(size, [known[node] for node in peaks])
        return [node for chunk in chunks for node in above.append_subtree(CHUNK_LEVEL, chunk.root)]

    async def _keep(self, chunks: Sequence[Chunk], nodes: Sequence[tuple[int, int, bytes]]) -> None:
        columns = list(zip(*chunks, strict=True))
        levels, numbers, hashes = zip(*nodes, strict=True) if nodes else ((), (), ())
        parameters = [
            *map(list, columns),
            list(levels),
            list(numbers),
            list(hashes),
        ]
        if (await self._session.fetch(self._write, parameters))[0][0] == len(chunks) + len(nodes):
            return
        # Somebody else was there first: it must have found the same.
        found = await self._session.fetch(self._chunks, ([chunk.number for chunk in chunks],))
        for chunk, row in zip(chunks, found, strict=True):
            if chunk != Chunk._make(row):
                raise TreeFault(
                    f"chunk {chunk.number} of the tree (positions {chunk.first_position} to {chunk.last_position}) is "
                    "not what the log gives: run `perdure verify`"
                )
        kept = await self._known_nodes({(level, number) for level, number, _ in nodes})
        for level, number, hash_ in nodes:
            if kept.get((level, number)) != hash_:
                raise TreeFault(f"node {number} of level {level} of the tree is not what its chunks give")

    async def _rest(self, position: int, mark: int) -> list[bytes]:
        """The leaves of the events after ``position`` that make no complete chunk."""
        return [row[0] for row in await self._session.fetch(self._leaves, (position, mark, CHUNK - 1))]

    async def _indexes(self, positions: Sequence[int], size: int) -> list[int]:
        kept = await self.kept()
        numbers = await self._session.fetch(self._owners, (list(positions),))
        owners = [Chunk._make(row) for row in await self._session.fetch(self._chunks, ([n for (n,) in numbers],))]
        rest = await self._rest(kept.position, max(positions)) if max(positions, default=0) > kept.position else []
        runs = [(chunk.first_position, chunk.number * CHUNK, split_leaves(chunk.leaves)) for chunk in owners]
        if rest:
            runs.append((kept.position + 1, kept.size, rest))
        found = []
        for position in positions:
            at = bisect_left(runs, position + 1, key=lambda run: run[0]) - 1
            index = _index(*runs[at][1:], position) if at >= 0 else None
            if index is None or index >= size:
                raise TreeFault(f"the tree of {size} events has none at position {position}")
            found.append(index)
        return found

    async def _known(self, ranges: Iterable[Range]) -> dict[Node, bytes]:
        """The roots of all complete subtrees that make up ``ranges``."""
        wanted = {node for one in ranges for node in subtrees(one)}
        above = {node for node in wanted if node[0] >= CHUNK_LEVEL}
        known = await self._known_nodes(above)
        if missing := above - known.keys():
            level, number = min(missing)
            raise TreeFault(f"the tree has no node {number} of level {level}: it has not grown so far")
        return known | await self._known_inside(wanted - above)

    async def _known_nodes(self, wanted: Iterable[Node]) -> dict[Node, bytes]:
        chunks = [number for level, number in wanted if level == CHUNK_LEVEL]
        nodes = [node for node in wanted if node[0] > CHUNK_LEVEL]
        known: dict[Node, bytes] = {}
        if chunks:
            for number, root in await self._session.fetch(self._roots, (chunks,)):
                known[CHUNK_LEVEL, number] = root
        if nodes:
            levels, numbers = zip(*nodes, strict=True)
            rows = await self._session.fetch(self._nodes, (list(levels), list(numbers)))
            known.update({(level, number): hash_ for level, number, hash_ in rows})
        return known

    async def _known_inside(self, wanted: Iterable[Node]) -> dict[Node, bytes]:
        """Subtrees of fewer than 256 leaves, made out of the leaves of their chunks."""
        wanted = set(wanted)
        owners = {number >> (CHUNK_LEVEL - level) for level, number in wanted}
        # First how far it is kept: a chunk that becomes complete meanwhile still has its events.
        kept = await self.kept() if owners else Extent(0, 0)
        hashes: dict[int, Sequence[bytes]] = {}
        if owners and max(owners) >= kept.size // CHUNK:
            rest = await self._rest(kept.position, 2**63 - 1)
            hashes[kept.size // CHUNK] = [leaf_hash(leaf) for leaf in rest]
        if before := [number for number in owners if number < kept.size // CHUNK]:
            rows = await self._session.fetch(self._chunks, (before,))
            hashes.update({row[0]: Chunk._make(row).hashes for row in rows})
        return {node: _inside(hashes, node) for node in wanted}


def _index(first: int, leaves: Sequence[bytes], position: int) -> int | None:
    wanted = position.to_bytes(8)
    at = bisect_left(leaves, wanted)
    return first + at if at < len(leaves) and leaves[at][:8] == wanted else None


def _inside(chunks: Mapping[int, Sequence[bytes]], node: Node) -> bytes:
    level, number = node
    chunk, first = divmod(number << level, CHUNK)
    hashes: Sequence[Any] = chunks.get(chunk, ())[first : first + (1 << level)]
    if len(hashes) < 1 << level:
        raise TreeFault(f"the log has no {(number + 1) << level} settled events")
    return subtree_root(hashes)

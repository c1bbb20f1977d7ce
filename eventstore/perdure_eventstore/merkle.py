"""The Merkle tree of RFC 9162, section 2.1: hashes, roots and proofs. Pure; what a leaf is, is said at the end.

Every hash in a proof is the root of a range of leaves, and every such range is a handful of complete subtrees, largest
first. So whoever keeps the roots of complete subtrees, by (level, number), makes any root and any proof out of few.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from struct import Struct
from typing import Any, Final, Self

import msgspec

EMPTY_ROOT: Final = sha256(b"").digest()
"""The root of a tree without leaves."""

Node = tuple[int, int]
"""A complete subtree: its level (a leaf's is 0) and its number among those of that level, from 0."""

Range = tuple[int, int]
"""Leaves from the first index up to, and without, the second."""


class ProofRefused(ValueError):
    """A proof that cannot be of the tree it is said to be of."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf with these bytes."""
    return sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of the node above two others."""
    return sha256(b"\1" + left + right).digest()


def subtree_root(hashes: Sequence[bytes]) -> bytes:
    """The root above 1, 2, 4, 8, … hashes of one level."""
    if not hashes or len(hashes) & (len(hashes) - 1):
        raise ValueError(f"a complete subtree has 1, 2, 4, 8, … leaves, not {len(hashes)}")
    while len(hashes) > 1:
        pairs = iter(hashes)
        hashes = [sha256(b"\1" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
    return hashes[0]


class CompactRange:
    """A tree of which only the roots of its largest complete subtrees are kept: enough to append and to have a root."""

    __slots__ = ("_peaks", "size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        """``peaks`` are those roots, largest first: one for each 1 in the binary form of ``size``."""
        if size < 0 or len(peaks) != size.bit_count() or any(len(peak) != 32 for peak in peaks):
            raise ValueError(f"{len(peaks)} subtree roots cannot be those of a tree of {size} leaves")
        self.size = size
        self._peaks = list(peaks)

    def append(self, leaf: bytes) -> None:
        """Add one leaf, by its hash."""
        self.append_subtree(0, leaf)

    def append_subtree(self, level: int, root: bytes) -> list[tuple[int, int, bytes]]:
        """Add 2**``level`` leaves by their root; the size must be a multiple of that.

        Returns the complete subtrees this closed above it: level, number, root.
        """
        number, rest = divmod(self.size, 1 << level)
        if rest:
            raise ValueError(f"a subtree of {1 << level} leaves cannot begin at leaf {self.size}")
        self.size += 1 << level
        closed = []
        while number & 1:
            root, number, level = node_hash(self._peaks.pop(), root), number >> 1, level + 1
            closed.append((level, number, root))
        self._peaks.append(root)
        return closed

    @property
    def root(self) -> bytes:
        """The root of the whole tree."""
        return join(self._peaks)

    def copy(self) -> "CompactRange":
        """Another that goes its own way from here."""
        return CompactRange(self.size, self._peaks)

    def as_json(self) -> dict[str, Any]:
        """All there is to it, as plain JSON data."""
        return {"size": self.size, "peaks": [peak.hex() for peak in self._peaks]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The one that ``as_json`` gave. Raises ValueError, KeyError, TypeError for anything else."""
        return cls(int(data["size"]), [bytes.fromhex(peak) for peak in data["peaks"]])


def join(roots: Sequence[bytes]) -> bytes:
    """The root of a range from those of its complete subtrees, largest first."""
    if not roots:
        return EMPTY_ROOT
    root = roots[-1]
    for left in reversed(roots[:-1]):
        root = node_hash(left, root)
    return root


def subtrees(leaves: Range) -> Iterator[Node]:
    """The complete subtrees of a range as proofs have them, largest first."""
    begin, end = leaves
    while begin < end:
        level = (end - begin).bit_length() - 1
        yield level, begin >> level
        begin += 1 << level


def range_root(leaves: Range, known: Mapping[Node, bytes]) -> bytes:
    """The root of a range, out of the roots of its ``subtrees``."""
    return join([known[node] for node in subtrees(leaves)])


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """The ranges whose roots prove that a tree of ``size`` has the leaf ``index``, nearest first."""
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    begin, end, ranges = 0, size, list[Range]()
    while end - begin > 1:
        middle = begin + _half(end - begin)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin = middle
    return ranges[::-1]


def consistency_ranges(old: int, new: int) -> list[Range]:
    """The ranges whose roots prove that a tree of ``new`` leaves begins with the one of ``old`` leaves."""
    if not 0 < old <= new:
        raise ValueError(f"a tree of {new} leaves cannot be compared with one of {old}")
    begin, end, ranges = 0, new, list[Range]()
    while old != end:
        middle = begin + _half(end - begin)
        if old <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin = middle
    if begin:
        ranges.append((begin, end))
    return ranges[::-1]


def root_of_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes:
    """The root that the tree of ``size`` must have if ``leaf`` (its hash) is at ``index``. Raises ProofRefused."""
    if not 0 <= index < size:
        raise ProofRefused(f"a tree of {size} leaves has no leaf {index}")
    at, last, root, steps = index, size - 1, leaf, iter(path)
    for step in steps:
        if last == 0:
            raise ProofRefused(f"the path from leaf {index} of {size} is too long")
        if at & 1 or at == last:
            root = node_hash(step, root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = node_hash(root, step)
        at, last = at >> 1, last >> 1
    if last:
        raise ProofRefused(f"the path from leaf {index} of {size} is too short")
    return root


def is_consistent(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether ``path`` proves that the tree (``new``, ``new_root``) begins with the one (``old``, ``old_root``)."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not path and old_root == new_root
    steps = [old_root, *path] if not old & (old - 1) else list(path)
    if not steps:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    older = newer = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            older, newer = node_hash(step, older), node_hash(step, newer)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            newer = node_hash(newer, step)
        at, last = at >> 1, last >> 1
    return last == 0 and older == old_root and newer == new_root


def _half(count: int) -> int:
    """The largest power of two below ``count``."""
    return 1 << (count - 1).bit_length() - 1


# The tree over the settled log. Its leaves are the events in the order of position; a leaf's index is its rank.

CHUNK_LEVEL: Final = 8
CHUNK: Final = 1 << CHUNK_LEVEL
"""Leaves in a row of tree_chunks."""

LEAF_BYTES: Final = 40
_position = Struct("!q").pack


def leaf_data(position: int, event_hash: bytes) -> bytes:
    """The bytes of an event's leaf: its position (eight bytes, big-endian) and its hash."""
    return _position(position) + event_hash


class Inclusion(msgspec.Struct, frozen=True):
    """The proof that the event at ``position`` is leaf ``index`` of the tree of ``size`` leaves."""

    position: int
    index: int
    size: int
    path: Sequence[bytes]

    def root(self, event_hash: bytes) -> bytes:
        """The root the tree must have if this event is in it. Raises ProofRefused."""
        return root_of_inclusion(self.index, self.size, leaf_hash(leaf_data(self.position, event_hash)), self.path)

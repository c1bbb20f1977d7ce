"""Postgres arrays in binary form, packed by hand.

psycopg adapts a list element by element; for a batch of a few hundred events that costs more than the statement
itself. These pack a column at a time. The format is array_recv's: dimensions, a null flag, the element type, the
length and the lower bound, then each element behind its length (-1 for null).
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Final

_header = Struct("!iiIii").pack
_empty = Struct("!iiI").pack
_length = Struct("!i").pack
_NULL = _length(-1)
_count = Struct("!i").unpack_from
_EMPTY_BYTES: Final = 12
_HEADER_BYTES: Final = 20


def _array(oid: int, nulls: int, count: int, body: bytes) -> bytes:
    # An empty array has no dimension at all.
    return _header(1, nulls, oid, count, 1) + body if count else _empty(0, 0, oid)


class _Fixed:
    """Arrays of a type whose values are always ``width`` bytes, none of them null."""

    def __init__(self, oid: int, width: int) -> None:
        self._oid, self._prefix = oid, _length(width)

    def __call__(self, items: Sequence[bytes]) -> bytes:
        body = self._prefix.join((b"", *items))
        return _array(self._oid, 0, len(items), body)


class _Integers:
    """Arrays of integers of one width."""

    def __init__(self, oid: int, width: int, code: str) -> None:
        self._fixed, self._pack = _Fixed(oid, width), Struct(f"!{code}").pack

    def __call__(self, items: Iterable[int]) -> bytes:
        return self._fixed([*map(self._pack, items)])


class _Variable:
    """Arrays of a type of any length; None is null."""

    def __init__(self, oid: int) -> None:
        self._oid = oid

    def __call__(self, items: Sequence[bytes | None]) -> bytes:
        if items.count(None) == len(items):
            return _array(self._oid, 1, len(items), _NULL * len(items))
        body = b"".join([_NULL if item is None else _length(len(item)) + item for item in items])
        return _array(self._oid, 1, len(items), body)


uuids = _Fixed(2950, 16)
integers = _Integers(23, 4, "i")
smallints = _Integers(21, 2, "h")
bigints = _Integers(20, 8, "q")
timestamps = _Integers(1184, 8, "q")
"""Of timestamptz: µs since 2000."""
texts = _Variable(25)
byteas = _Variable(17)
hashes = _Fixed(17, 32)


def unpack(data: bytes | None) -> list[int]:
    """The integers in an array of ``integer`` or ``bigint`` without nulls; none for null."""
    if data is None or len(data) <= _EMPTY_BYTES:
        return []
    count, width = _count(data, _EMPTY_BYTES)[0], _count(data, _HEADER_BYTES)[0]
    return list(_unpackers[width](count).unpack_from(data, _HEADER_BYTES)[1::2])


def unpack_bigints(data: bytes) -> list[int | None]:
    """The elements of an array of ``bigint``, None for null."""
    found: list[int | None] = []
    place = _HEADER_BYTES
    while place < len(data):
        (width,) = _count(data, place)
        place += 4
        found.append(int.from_bytes(data[place : place + 8], signed=True) if width > 0 else None)
        place += max(width, 0)
    return found


def _unpacker(code: str) -> Callable[[int], Struct]:
    return lru_cache(maxsize=256)(lambda count: Struct("!" + f"i{code}" * count))


_unpackers = {4: _unpacker("i"), 8: _unpacker("q")}

"""Postgres arrays in binary form, packed by hand.

psycopg adapts a list element by element; for a batch of a few hundred events that costs more than the statement
itself. These pack a column at a time. The format is array_recv's: dimensions, a null flag, the element type, the
length and the lower bound, then each element behind its length (-1 for null).
"""

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any

from psycopg import AsyncConnection
from psycopg.adapt import Buffer, Dumper, PyFormat
from psycopg.pq import Format

_header = Struct("!iiIii").pack
_empty = Struct("!iiI").pack
_length = Struct("!i").pack
_NULL = _length(-1)


class Array:
    """One array parameter, ready to send."""

    __slots__ = ("data", "oid")

    def __init__(self, oid: int, data: bytes) -> None:
        self.oid, self.data = oid, data


def _array(array_oid: int, oid: int, nulls: int, count: int, body: bytes) -> Array:
    # An empty array has no dimension at all.
    data = _header(1, nulls, oid, count, 1) + body if count else _empty(0, 0, oid)
    return Array(array_oid, data)


class _Fixed:
    """Arrays of a type whose values are always ``width`` bytes, none of them null."""

    def __init__(self, oid: int, array_oid: int, width: int) -> None:
        self._oid, self._array_oid, self._prefix = oid, array_oid, _length(width)

    def __call__(self, items: Sequence[bytes]) -> Array:
        body = self._prefix.join((b"", *items))
        return _array(self._array_oid, self._oid, 0, len(items), body)


class _Integers:
    """Arrays of integers of one width."""

    def __init__(self, oid: int, array_oid: int, width: int, code: str) -> None:
        self._fixed, self._pack = _Fixed(oid, array_oid, width), Struct(f"!{code}").pack

    def __call__(self, items: Iterable[int]) -> Array:
        return self._fixed([self._pack(item) for item in items])


class _Variable:
    """Arrays of a type of any length; None is null."""

    def __init__(self, oid: int, array_oid: int) -> None:
        self._oid, self._array_oid = oid, array_oid

    def __call__(self, items: Sequence[bytes | None]) -> Array:
        body = b"".join([_NULL if item is None else _length(len(item)) + item for item in items])
        return _array(self._array_oid, self._oid, 1, len(items), body)


uuids = _Fixed(2950, 2951, 16)
integers = _Integers(23, 1007, 4, "i")
smallints = _Integers(21, 1005, 2, "h")
bigints = _Integers(20, 1016, 8, "q")
timestamps = _Integers(1184, 1185, 8, "q")
"""Of timestamptz: µs since 2000."""
texts = _Variable(25, 1009)
byteas = _Variable(17, 1001)


class _ArrayDumper(Dumper):
    """Sends an Array as it is, under its own type."""

    format = Format.BINARY

    def dump(self, obj: Array) -> Buffer | None:
        return obj.data

    def get_key(self, obj: Array, format: PyFormat) -> Any:
        return (self.cls, obj.oid)

    def upgrade(self, obj: Array, format: PyFormat) -> "Dumper":
        dumper = _ArrayDumper(self.cls)
        dumper.oid = obj.oid
        return dumper


def register(connection: AsyncConnection[Any]) -> None:
    """Teach ``connection`` to send Arrays."""
    connection.adapters.register_dumper(Array, _ArrayDumper)

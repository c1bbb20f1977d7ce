"""Sets of tasks as the bits of an integer, in batches that keep the integers short.

What is asked about a whole graph (is T upstream? can these ends come together?) costs one pass over its edges for
each batch, and so stays near linear in definitions of a hundred thousand tasks.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

_BATCH = 2_048


def numbered(names: Iterable[str]) -> Iterator[Mapping[str, int]]:
    """The names in batches, each name with its bit's number in the batch."""
    rest = iter(names)
    while batch := list(islice(rest, _BATCH)):
        yield {name: number for number, name in enumerate(batch)}


def lowest(bits: int) -> int:
    """The number of the lowest bit that is set."""
    return (bits & -bits).bit_length() - 1

"""How a subscription is divided: by stream, so that what happens in one stream stays in order.

A stream's part is the last byte of its id modulo the number of parts. An id must end in random bits for the parts to be
of one size, as those of UUID versions 4, 5 and 7 do.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

MOST_PARTS: Final = 64

IN_PART: Final = "mod(get_byte(uuid_send(stream), 15), {parts}) = {part}"
"""In SQL, whether an event is of a part."""


class Part(NamedTuple):
    """One of ``parts``, from 0."""

    number: int
    parts: int


def part_of(stream: UUID, parts: int) -> int:
    """The part that ``stream`` belongs to."""
    return stream.bytes[15] % parts


def redivide(positions: Sequence[int], parts: int) -> list[int] | None:
    """Where each of ``parts`` new parts begins, given the positions of the old ones.

    None if a new part would take streams from old parts at different positions: it would repeat or pass over events.
    Into a multiple of the old number of parts it can always be done.
    """
    begin: list[int] = []
    for number in range(parts):
        stand = {positions[byte % len(positions)] for byte in range(number, 256, parts)}
        if len(stand) > 1:
            return None
        begin.append(stand.pop())
    return begin

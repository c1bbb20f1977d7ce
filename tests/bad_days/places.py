"""Where a process is killed."""

from typing import NamedTuple


class Place(NamedTuple):
    """``where`` an append that holds ``transition``: before it is sent, uncommitted, or after it is committed."""

    where: str
    transition: str


NOWHERE = Place("", "")
"""A process that is left to live."""

"""From where on a queue table is read: below it lie dead rows, which an old transaction may keep from being vacuumed.

A scan that begins at the first row walks over all the dead ones again each time, and beside somebody's transaction of
an hour these are very many. Rows need not appear in the order of their keys, so the bound follows at a distance, and
once a minute everything is looked at. Permits do appear in their order; for them the delay is only a price.
"""

from collections import deque
from time import monotonic
from typing import Generic, TypeVar

Key = TypeVar("Key")

_BEHIND = 5.0
"""Seconds within which a row appears that has a lower key than one that was seen."""

_SWEEP = 60.0


class Bound(Generic[Key]):
    """The highest key that was seen some seconds ago."""

    def __init__(self, lowest: Key) -> None:
        self._lowest = self._above = lowest
        self._seen: deque[tuple[float, Key]] = deque()
        self._swept = monotonic()
        self._is_sweep = False

    def above(self) -> Key:
        """Rows with higher keys are to be read: now and then, until ``exhausted`` is called, all there are."""
        now = monotonic()
        while self._seen and self._seen[0][0] < now - _BEHIND:
            self._above = self._seen.popleft()[1]
        self._is_sweep = now > self._swept + _SWEEP
        return self._lowest if self._is_sweep else self._above

    def exhausted(self) -> None:
        """Above what ``above`` gave last, there was nothing left."""
        if self._is_sweep:
            self._swept, self._is_sweep = monotonic(), False

    def seen(self, key: Key) -> None:
        """``key`` was read, and nothing below it is left unread."""
        if not self._seen or monotonic() > self._seen[-1][0] + _BEHIND / 5:
            self._seen.append((monotonic(), key))

    def lift(self) -> None:
        """Read everything next time."""
        self._swept = -_SWEEP
        self._is_sweep = False
        self._seen.clear()
        self._above = self._lowest

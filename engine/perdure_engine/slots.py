"""How many attempts a node runs at once, and who is next."""

from collections import deque
from typing import Generic, TypeVar

Waiting = TypeVar("Waiting")


class Slots(Generic[Waiting]):
    """A fixed number of slots, and a queue in order of arrival for whom there is none.

    Whoever finds others waiting waits behind them, so a busy run cannot keep a slot for itself.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.free = limit
        self._queue: deque[Waiting] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    def take(self, who: Waiting) -> bool:
        """Take a slot, or join the queue and return False."""
        if self.free > 0 and not self._queue:
            self.free -= 1
            return True
        self._queue.append(who)
        return False

    def give_back(self, count: int = 1) -> None:
        """Return slots."""
        self.free += count

    def next(self) -> Waiting | None:
        """The next in the queue with a slot taken for it; None if there is no slot or nobody waits."""
        if self.free <= 0 or not self._queue:
            return None
        self.free -= 1
        return self._queue.popleft()

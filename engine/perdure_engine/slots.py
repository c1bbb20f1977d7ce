"""How many attempts a node executes at once, and who is next."""

import heapq
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

if TYPE_CHECKING:
    from perdure_engine.dispatch import Choice

PRIORITY_SECONDS = 10.0
"""Seconds of waiting that count as much as one step of priority: nobody waits for ever."""


class Place(NamedTuple):
    """Somebody who waits, in the order of ``turn``; ``begin`` is called with a slot taken.

    ``run`` is the run it belongs to, if that is held here.
    """

    turn: float
    number: int
    type: str
    run: UUID | None
    begin: Callable[[], None]
    move: Callable[["Choice"], None] | None
    """Called instead, with another node that is to execute it; None if it has to be this one."""


class Slots:
    """A fixed number of slots, of which each type of task may have its own share, and queues for whom there is none.

    A queue a type, so that a type at its limit holds up no other. Who has waited ten seconds longer goes before one
    with one step more of priority.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.free = limit
        self.waiting = 0
        """How many wait."""
        self._taken: dict[str, int] = {}
        self._limits: dict[str, int] = {}
        self._queues: dict[str, list[Place]] = {}
        self._numbers = count()

    def restrict(self, type_: str, limit: int | None) -> None:
        """At most ``limit`` of a type at once; None is as many as there are slots."""
        if limit is None:
            self._limits.pop(type_, None)
        else:
            self._limits[type_] = limit

    def take(
        self,
        type_: str,
        priority: int,
        run: UUID | None,
        begin: Callable[[], None],
        move: Callable[["Choice"], None] | None = None,
        since: float | None = None,
    ) -> bool:
        """Take a slot, or queue and return False: ``begin`` is called later, with a slot taken, or ``move``.

        Whoever finds others waiting waits as well, so that a busy run cannot keep a slot for itself. ``since`` is when
        it began to wait, if not now, by ``time.monotonic``.
        """
        if self.take_free(type_):
            return True
        since = monotonic() if since is None else since
        place = Place(since - priority * PRIORITY_SECONDS, next(self._numbers), type_, run, begin, move)
        heapq.heappush(self._queues.setdefault(type_, []), place)
        self.waiting += 1
        return False

    def take_free(self, type_: str) -> bool:
        """Take a slot, if there is one and nobody waits."""
        if self.free <= 0 or self.waiting or self._is_full(type_):
            return False
        self._occupy(type_)
        return True

    def give_back(self, type_: str) -> None:
        """Return a slot."""
        self.free += 1
        self._taken[type_] -= 1

    def forget(self, whether: Callable[[UUID], bool]) -> None:
        """Whoever waits for a run of which ``whether`` is true waits no more."""
        for type_, queue in list(self._queues.items()):
            kept = [place for place in queue if place.run is None or not whether(place.run)]
            self.waiting -= len(queue) - len(kept)
            heapq.heapify(kept)
            self._queues[type_] = kept
            if not kept:
                del self._queues[type_]

    def next(self) -> Place | None:
        """The next in turn with a slot taken for it; None if there is no slot or nobody may take it."""
        if self.free <= 0 or not self.waiting:
            return None
        heads = [queue[0] for type_, queue in self._queues.items() if not self._is_full(type_)]
        if not heads:
            return None
        place = self._leave(min(heads).type)
        self._occupy(place.type)
        return place

    def movable(self) -> list[str]:
        """The types of which who is next in turn may begin on another node."""
        return [type_ for type_, queue in self._queues.items() if queue[0].move is not None]

    def moved(self, type_: str) -> Callable[["Choice"], None]:
        """Who is next in turn of a type that is ``movable`` waits no more; where it begins is to be told to it."""
        move = self._leave(type_).move
        assert move is not None
        return move

    def _leave(self, type_: str) -> Place:
        queue = self._queues[type_]
        place = heapq.heappop(queue)
        if not queue:
            del self._queues[type_]
        self.waiting -= 1
        return place

    def _occupy(self, type_: str) -> None:
        self.free -= 1
        self._taken[type_] = self._taken.get(type_, 0) + 1

    def _is_full(self, type_: str) -> bool:
        limit = self._limits.get(type_)
        return limit is not None and self._taken.get(type_, 0) >= limit

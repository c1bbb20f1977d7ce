"""The states of runs that wait, kept as long as there is room, so that what reaches one need not fold it again."""

from collections import OrderedDict
from collections.abc import Callable
from uuid import UUID

from perdure_engine.history import Loaded

MOST = 1_000
"""Runs."""

MOST_BYTES = 32 * 1024 * 1024
"""Of the events they were folded from; in memory they take about twice as much."""


class Resting:
    """The latest to rest stay; a run that is taken is held, and rests no more."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._states: OrderedDict[UUID, Loaded] = OrderedDict()
        self.size = 0
        """Bytes of what is here."""

    def __len__(self) -> int:
        return len(self._states)

    def put(self, loaded: Loaded) -> None:
        """Keep a run's state, if there is room for it at all; those that have rested longest make room."""
        run = loaded.state.run_id
        self.take(run)
        if loaded.size > self._most_bytes:
            return
        self._states[run] = loaded
        self.size += loaded.size
        while len(self._states) > self._most or self.size > self._most_bytes:
            _, oldest = self._states.popitem(last=False)
            self.size -= oldest.size

    def take(self, run: UUID) -> Loaded | None:
        """The run's state, if it is here; no longer, then."""
        loaded = self._states.pop(run, None)
        if loaded is not None:
            self.size -= loaded.size
        return loaded

    def forget(self, whether: Callable[[UUID], bool]) -> None:
        """Forget the runs of which ``whether`` is true: from now on others may append to them."""
        for run in [run for run in self._states if whether(run)]:
            self.take(run)

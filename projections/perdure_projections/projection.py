"""What a projection is: a view of the log, and how to carry it on over one more stretch of it."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

Apply = Callable[[AsyncConnection[Any], int, int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Projection:
    """A view folded from the log.

    ``apply(connection, first, last)`` folds the events with ``first`` < position <= ``last`` into ``tables``. It is
    called in an open transaction, which it leaves open; the checkpoint commits with its rows, so every event counts
    once. Perdure's schema is in front of the connection's search_path: ``events`` is the log. The log may be cut into
    ranges anywhere: whatever the cuts, the rows must come out the same. Raising anything stops the projection at the
    offending event.
    """

    name: str
    version: int
    """Raise it when the fold changes: a projection that has stopped is then tried again at once."""
    types: tuple[str, ...]
    """The event types it folds."""
    tables: tuple[str, ...]
    """Its tables, written by nobody else."""
    apply: Apply


def type_names(kinds: Iterable[type[Any]]) -> tuple[str, ...]:
    """The names under which the log keeps events of these classes."""
    return tuple(kind.__name__ for kind in kinds)


def sql_names(names: Iterable[str]) -> str:
    """``names`` as a list of SQL literals: written into the statement, a long list is looked up by hash."""
    return ", ".join("'" + name.replace("'", "''") + "'" for name in names)

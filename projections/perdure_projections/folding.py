"""One step of one projection: fold a batch, its rows and its checkpoint in one transaction; or find what cannot be.

    fold (first, last] --- it works ----------------------------> commit, go on
        |
        +--- it raises ---> roll back, halve the range: commit the half that works, halve the one that does not,
                            until one position is left that fails by itself ---> record why, stop there

A projection that has stopped is tried again with that one position, not with a whole batch.
"""

from enum import Enum
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from perdure_eventstore.errors import domain_error
from perdure_eventstore.session import Session
from perdure_projections.checkpoint import CheckpointMoved, Checkpoints
from perdure_projections.projection import Projection

BATCH = 10_000
"""Positions in one transaction."""

log = structlog.get_logger(__name__)


class Step(Enum):
    """What came of one step."""

    MORE = "a batch was folded, and there is more"
    DONE = "what was left up to the mark was folded"
    IDLE = "it was at the mark already"
    BUSY = "another runner has it"
    SUPERSEDED = "a higher version has it"
    STOPPED = "an event cannot be folded"


class _FoldFailed(Exception):
    """A range could not be folded, and was rolled back."""

    def __init__(self, first: int, last: int, reason: str) -> None:
        self.first, self.last, self.reason = first, last, reason
        super().__init__(reason)


async def step(session: Session, checkpoints: Checkpoints, projection: Projection, mark: int) -> Step:
    """Fold one batch up to the settled ``mark``. Raises LogError where the database, not the projection, fails."""
    connection = await session.connection()
    try:
        try:
            return await _fold(connection, checkpoints, projection, mark)
        except _FoldFailed as failed:
            return await _narrow(connection, checkpoints, projection, failed.first, failed.last)
    except CheckpointMoved:
        return Step.BUSY
    except psycopg.Error as error:
        raise domain_error(error) from error


async def _fold(connection: AsyncConnection[Any], checkpoints: Checkpoints, projection: Projection, mark: int) -> Step:
    """Raises _FoldFailed for whatever goes wrong once the row is taken, the commit included.

    On a connection that broke, the next try fails before it has the row; then the projection is not to blame.
    """
    first, last = 0, 0
    try:
        async with connection.transaction():
            place = await checkpoints.take(connection, projection)
            if place is None:
                return Step.BUSY
            if place.version != projection.version:
                return Step.SUPERSEDED
            if place.position >= mark:
                return Step.IDLE
            first, last = place.position, min(place.position + (1 if place.stopped else BATCH), mark)
            await projection.apply(connection, first, last)
            await checkpoints.move(connection, projection, first, last)
    except CheckpointMoved:
        raise
    except Exception as error:
        if not last:
            raise
        raise _FoldFailed(first, last, f"{type(error).__name__}: {error}".strip()) from error
    return Step.MORE if last < mark else Step.DONE


async def _narrow(
    connection: AsyncConnection[Any], checkpoints: Checkpoints, projection: Projection, first: int, last: int
) -> Step:
    """Fold all that can be folded before the first position that fails, and stop there."""
    while last - first > 1:
        middle = (first + last) // 2
        try:
            if await _fold(connection, checkpoints, projection, middle) in (Step.BUSY, Step.SUPERSEDED):
                return Step.BUSY
            first = middle
        except _FoldFailed as failed:
            first, last = failed.first, failed.last
    try:
        # Once more by itself: what failed may have been the range, and what ailed it may be over.
        await _fold(connection, checkpoints, projection, last)
        return Step.MORE
    except _FoldFailed as failed:
        reason = await checkpoints.stop(connection, projection, failed.last, failed.reason)
        log.error("projection stopped", projection=projection.name, error=reason)
        return Step.STOPPED

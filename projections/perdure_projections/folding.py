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
from perdure_eventstore.errors import LogUnavailable, domain_error, is_unreachable
from perdure_eventstore.session import Session
from psycopg import AsyncConnection

from perdure_projections.checkpoint import CheckpointMoved, Checkpoints
from perdure_projections.projection import Projection

BATCH = 10_000
"""Positions in one transaction."""

log = structlog.get_logger(__name__)


class Step(Enum):
    """What came of one step."""

    MORE = "there is more to fold"
    DONE = "it is at the mark"
    BUSY = "another runner has it"
    STOPPED = "an event cannot be folded"


class _FoldFailed(Exception):
    """``apply`` raised for a range, which was rolled back."""

    def __init__(self, position: int, last: int, reason: str) -> None:
        self.position, self.last, self.reason = position, last, reason
        super().__init__(reason)


async def step(session: Session, checkpoints: Checkpoints, projection: Projection, mark: int) -> Step:
    """Fold one batch up to the settled ``mark``. Raises LogError where the database, not the projection, fails."""
    connection = await session.connection()
    try:
        try:
            return await _fold(connection, checkpoints, projection, mark)
        except _FoldFailed as failed:
            return await _narrow(connection, checkpoints, projection, failed)
    except CheckpointMoved:
        return Step.BUSY
    except psycopg.Error as error:
        raise domain_error(error) from error


async def _fold(
    connection: AsyncConnection[Any], checkpoints: Checkpoints, projection: Projection, mark: int
) -> Step:
    async with connection.transaction():
        place = await checkpoints.take(connection, projection)
        if place is None:
            return Step.BUSY
        if place.position >= mark:
            return Step.DONE
        last = min(place.position + (1 if place.stopped else BATCH), mark)
        await _apply(connection, projection, place.position, last)
        await checkpoints.move(connection, projection, place.position, last)
    return Step.MORE if last < mark else Step.DONE


async def _apply(connection: AsyncConnection[Any], projection: Projection, first: int, last: int) -> None:
    """Raises _FoldFailed for whatever ``apply`` raises, LogUnavailable where the connection is to blame."""
    try:
        await projection.apply(connection, first, last)
    except Exception as error:
        if is_unreachable(error) or connection.broken:
            raise LogUnavailable(str(error).strip()) from error
        raise _FoldFailed(first, last, f"{type(error).__name__}: {error}".strip()) from error


async def _narrow(
    connection: AsyncConnection[Any], checkpoints: Checkpoints, projection: Projection, failed: _FoldFailed
) -> Step:
    """Fold all that can be folded before the first position that fails, and stop there."""
    while failed.last - failed.position > 1:
        middle = (failed.position + failed.last) // 2
        try:
            if await _fold(connection, checkpoints, projection, middle) is Step.BUSY:
                return Step.BUSY
            failed.position = middle
        except _FoldFailed as error:
            failed = error
    try:
        # Once more by itself: what failed may have been the range, and what ails it may be over.
        return await _fold(connection, checkpoints, projection, failed.last)
    except _FoldFailed as error:
        sentence = await checkpoints.stop(connection, projection, error.last, error.reason)
        log.error("projection stopped", projection=projection.name, error=sentence)
        return Step.STOPPED

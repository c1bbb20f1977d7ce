"""Moving streams to a file, in an order in which a crash at any moment loses nothing:

    export ──▶ fsync, its name ──▶ read it again, check every chain ──▶ remove, some hundred streams a transaction

Whatever was removed is in a file that was read back whole. A file whose streams were not all removed is a copy of what
the log still has: the next call writes those to another file.
"""

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.archive.files import heads, writing
from perdure_eventstore.keeper import Keeper
from perdure_eventstore.session import Session
from perdure_eventstore.settled import settled_end
from perdure_eventstore.transfer.entry import TransferRefused
from perdure_eventstore.transfer.export import export
from perdure_eventstore.transfer.frame import Selection
from perdure_eventstore.transfer.places import log_origin
from perdure_eventstore.transfer.record import JsonLines
from perdure_eventstore.tree import Tree

STREAMS = 500
"""In one transaction that removes."""


class Moved(NamedTuple):
    """A file, and the streams that are there now and no more in the log."""

    file: Path
    streams: int
    events: int


async def removable(session: Session, schema: str = "perdure") -> int:
    """Up to where the tree has taken events in, so that they may be removed; it grows first. Raises LogError."""
    tree = Tree(session, schema)
    await tree.grow((await settled_end(session, schema)).position)
    return (await tree.kept()).position


async def move(
    engine: AsyncEngine, session: Session, streams: Sequence[UUID], folder: Path, schema: str = "perdure"
) -> Moved:
    """Move whole streams, none of which goes on, to a new file in ``folder``. The caller alone removes (``presence``).

    One that went on all the same stays in the log. Raises TransferRefused, LogError, OSError.
    """
    path = folder.absolute() / f"perdure-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.urandom(4).hex()}.jsonl.gz"
    selection, log = Selection(tuple(streams)), await log_origin(session, schema)
    with writing(path) as write:
        await export(engine, write, JsonLines(), selection, log=log, schema=schema, removing=True)
    # Whole files are read and written beside the event loop: on it, every lease of the node would run out.
    found = await asyncio.to_thread(heads, path)
    if missing := set(streams) - found.keys():
        raise TransferRefused(f"{path}: stream {min(missing)} is not there: nothing was removed")
    removed, events = 0, 0
    for first in range(0, len(streams), STREAMS):
        some = {stream: found[stream] for stream in streams[first : first + STREAMS]}
        for stream in await Keeper(session, schema).remove(some, path):
            removed, events = removed + 1, events + found[stream].version
    return Moved(path, removed, events)

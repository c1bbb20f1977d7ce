"""A process that follows the log by the settled mark and notes what it sees; its notes are its checkpoint."""

import asyncio
import os
from pathlib import Path
from random import Random

from bad_days.notes import Notes, fact, seen_by
from logs import opened

from perdure_eventstore.errors import LogError
from perdure_eventstore.feed import Feed
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session


async def read(url: str, notes: str, seed: int, interval: float = 0.2) -> None:
    """Read from where the notes end, for ever."""
    file, random = Path(notes), Random(seed)
    _cut_torn_line(file)
    seen = seen_by(file)
    position = seen[-1].position if seen else 0
    kept = Notes(file)
    async with opened(url) as engine, asyncio.TaskGroup() as group:
        feed, session = Feed(engine, interval=interval), Session(engine)
        group.create_task(feed.run())
        reader = Reader(session)
        while True:
            mark = await feed.beyond(position)
            try:
                events = await reader.span(position, mark, limit=random.choice([1, 20, 500]))
            except LogError:
                # Its cursor is gone with its connection; the checkpoint is not.
                await asyncio.sleep(0.05)
                continue
            kept.write(*(list(fact(event)) for event in events))
            position = events[-1].position if events else mark


def _cut_torn_line(file: Path) -> None:
    if file.exists():
        content = file.read_bytes()
        os.truncate(file, content.rfind(b"\n") + 1)

"""Export: a selection of the log as lines, a header before them and a trailer behind."""

from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.session import Session
from perdure_eventstore.transfer.cut import cut_now
from perdure_eventstore.transfer.form import Form
from perdure_eventstore.transfer.frame import Header, Selection, Tally
from perdure_eventstore.transfer.presence import keep_all
from perdure_eventstore.transfer.reading import EntryReader

EVERYTHING = Selection()


class Exported(NamedTuple):
    """What an export wrote; ``streams`` are those that begin in it. The next one begins after ``mark``."""

    events: int
    streams: int
    mark: int
    sha256: str


async def export(
    engine: AsyncEngine,
    write: Callable[[bytes], object],
    form: Form,
    selection: Selection = EVERYTHING,
    *,
    log: str,
    schema: str = "perdure",
    progress: Callable[[int], object] = lambda events: None,
    removing: bool = False,
) -> Exported:
    """Write ``selection`` of the log, line by line, as it stands now; appends go on meanwhile, archiving does not.

    ``log`` is its origin; ``progress`` is told how many events are written; ``removing`` says that the caller is who
    archives. Raises LogError.
    """
    session, tally = Session(engine), Tally()

    def put(line: bytes) -> None:
        tally.take(line)
        write(line)

    try:
        if not removing:
            await keep_all(session, schema)
        cut = await cut_now(session, schema)
        put(form.header(Header(log, cut.mark, selection, datetime.now(UTC), version("perdure"))))
        async for page in EntryReader(session, schema).read(cut, selection):
            for entry in page:
                put(form.entry(entry))
                tally.count(entry.event.position, entry.event.version)
            progress(tally.events)
    finally:
        await session.close()
    trailer = tally.trailer()
    write(form.trailer(trailer))
    return Exported(trailer.events, trailer.streams, cut.mark, trailer.sha256)

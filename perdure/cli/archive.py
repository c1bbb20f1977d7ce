"""``perdure archive``; and what other verbs do about a run that was archived."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from perdure.cli import exits
from perdure.cli.looking import looking
from perdure.cli.output import emit, people, remark
from perdure.cli.place import find_app
from perdure.cli.verb import Common
from perdure.client import Client
from perdure.retention import archive, slowest
from perdure_engine.definitions.durations import parse_duration
from perdure_engine.history import Loaded, RunArchived, load_run
from perdure_eventstore.archive.files import events_of
from perdure_eventstore.archive.moving import Moved
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session
from perdure_eventstore.vault.frame import refuse_frames


async def archive_old(common: Common, older_than: str, to: str, workflow: str | None, limit: int | None) -> int:
    """The verb."""
    try:
        age = timedelta(seconds=parse_duration(older_than))
    except ValueError as error:
        raise exits.WrongUse(f"--older-than: {error}") from error

    def said(moved: Moved) -> None:
        if common.json:
            emit({"file": str(moved.file), "streams": moved.streams, "events": moved.events})
        else:
            people().print(
                f"{moved.streams} runs and events, {moved.events} events in all, are in {moved.file}", soft_wrap=True
            )

    async with looking(find_app(common)) as client:
        files = await archive(client, Path(to), age, workflow=workflow, limit=limit, moved=said)
        if not files:
            await _say_why_nothing(client)
    return exits.DONE


async def _say_why_nothing(client: Client) -> None:
    session = Session(client.engine)
    try:
        reader = await slowest(session, client.schema)
    finally:
        await session.close()
    remark(
        f"nothing was archived that old; the last 256 events stay in any case, and what {reader.name} has still to "
        f"read (it is at position {reader.position})"
    )


class ArchivedReader(Reader):
    """Reads one archived stream out of its file, as if it were still in the log."""

    def __init__(self, client: Client, events: list[RecordedEvent]) -> None:
        self._client, self._events = client, events

    async def stream(
        self, stream: UUID, after: int = 0, batch: int = 1_000, *, payloads: bool = True
    ) -> AsyncIterator[RecordedEvent]:
        """What the file has, and then what the log says happened to the stream since."""
        vault = self._client.vault
        stored = [event for event in self._events if event.version > after]
        for event in refuse_frames(stored) if vault is None else await vault.open(stored):
            yield event
        last = self._events[-1].version
        async for event in self._client.reader.stream(stream, max(after, last), batch, payloads=payloads):
            yield event


async def reader_of(client: Client, run: UUID, archive: str | None) -> Reader:
    """The log's reader, or for an archived run one of its file. Raises WrongUse where that is not to be found."""
    session = Session(client.engine)
    try:
        rows = await session.fetch(f'select file from "{client.schema}".archived where stream = %s', (run,))
    finally:
        await session.close()
    if not rows:
        return client.reader
    file = Path(archive or rows[0][0])
    if not file.is_file():
        raise exits.WrongUse(f"run {run} was archived, and its file {file} is not there: say --archive FILE")
    events = events_of(file, run)
    if not events:
        raise exits.WrongUse(f"run {run} was archived, and it is not in {file}")
    return ArchivedReader(client, events)


async def load_archived(client: Client, run: UUID, archive: str | None) -> Loaded:
    """The run's state, out of the log or out of its file. Raises UnknownRun, WrongUse."""
    try:
        return await client.load(run)
    except RunArchived:
        return await load_run(await reader_of(client, run, archive), client.registry, run)

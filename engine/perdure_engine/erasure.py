"""Erasing what users gave to a run, or published: which may be, and why another may not."""

from pathlib import Path
from uuid import UUID

from perdure_engine.history import UnknownRun
from perdure_engine.identity import start_stream
from perdure_engine.run import events as e
from perdure_eventstore.archive.files import erase_in
from perdure_eventstore.keeper import ARCHIVED, ERASED, Erased, Keeper
from perdure_eventstore.session import Session

_ENDED = [kind.__name__ for kind in e.RUN_ENDED]


class ErasureRefused(ValueError):
    """The payloads of this stream are still needed. The message says what for."""


class Erasure:
    """Erases ended runs and published events that have reached whom they concern."""

    def __init__(self, session: Session, keeper: Keeper, schema: str) -> None:
        self._session, self._keeper = session, keeper
        events, ended = f'"{schema}".events e where e.stream = s.stream', ", ".join(f"'{name}'" for name in _ENDED)
        self._look = f"""select
            (select type from {events} order by version limit 1),
            exists (select from {events} and type in ({ended}))
                and not exists (select from "{schema}".open_runs r where r.run = s.stream),
            exists (select from {events} and type = 'EventRouted'),
            (select min(i.run::text) from "{schema}".inbox i where i.event = s.stream),
            (select file from "{schema}".archived a where a.stream = s.stream)
            from (select %s::uuid as stream) s"""
        self._said = f"""select exists (
            select from "{schema}".events where stream = %s and type = '{ERASED}' and version > 1)"""

    async def erase(self, stream: UUID, reason: str = "", actor: str = "", archive: Path | None = None) -> Erased:
        """Erase the payloads of a run or a published event. Again is no-op, and completes one that was broken off.

        Of one that was archived the payloads are taken out of its file, which is ``archive`` if it was moved since.
        Raises UnknownRun, ErasureRefused, LogError, VaultError, TransferRefused, OSError.
        """
        rows = await self._session.fetch(self._look, (stream,))
        first, ended, routed, reader, file = rows[0]
        if first is None:
            raise UnknownRun(stream, f"there is no run or published event {stream}")
        if first == ARCHIVED:
            return await self._erase_archived(stream, archive or Path(file), reason, actor)
        if first == "RunStarted" and not ended:
            raise ErasureRefused(f"run {stream} is open and needs its inputs: cancel it first, or let it end")
        if first in ("EventPublished", "StartRequested") and not routed:
            raise ErasureRefused(f"event {stream} was not routed to its runs yet: a node has to do that first")
        if reader is not None:
            raise ErasureRefused(f"run {reader} has not taken in event {stream} yet: a node has to do that first")
        if first not in ("RunStarted", "EventPublished", "StartRequested"):
            raise ErasureRefused(f"{stream} is neither a run nor a published event: only their payloads are erased")
        erased = await self._keeper.erase(stream, reason, actor)
        if first == "RunStarted":
            # A run that was asked for in SQL has its input in the request too.
            request = await self._keeper.erase(start_stream(stream), reason, actor)
            erased = Erased(stream, erased.payloads + request.payloads)
        return erased

    async def _erase_archived(self, stream: UUID, file: Path, reason: str, actor: str) -> Erased:
        await self._keeper.destroy_key(stream)
        if not file.is_file():
            raise ErasureRefused(f"{stream} was archived, and its file {file} is not there: say where it is now")
        # The file first: broken off between the two, the repeat finds nothing in the file and says so in the log.
        payloads = erase_in(file, stream)
        (said,) = await self._session.fetch(self._said, (stream,))
        if payloads or not said[0]:
            await self._keeper.record_archived_erasure(stream, payloads, reason, actor)
        return Erased(stream, payloads)

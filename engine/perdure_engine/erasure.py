"""Erasing what users gave to a run or a schedule, or published: which may be, and why another may not."""

import asyncio
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from perdure_engine.history import UnknownRun
from perdure_engine.identity import start_stream
from perdure_engine.kinds import kind_of
from perdure_engine.run import events as e
from perdure_eventstore.archive.files import erase_in
from perdure_eventstore.keeper import ARCHIVED, ERASED, Erased, Keeper
from perdure_eventstore.session import Session

_ENDED = [kind.__name__ for kind in e.RUN_ENDED]


class ErasureRefused(ValueError):
    """The payloads of this stream are still needed. The message says what for."""


class Erasure:
    """Erases ended runs, deleted schedules, and published events that have reached whom they concern."""

    def __init__(self, session: Session, keeper: Keeper, schema: str) -> None:
        self._session, self._keeper = session, keeper
        events, ended = f'"{schema}".events e where e.stream = s.stream', ", ".join(f"'{name}'" for name in _ENDED)
        self._look = f"""select
            (select type from {events} order by version limit 1),
            exists (select from {events} and type in ({ended}))
                and not exists (select from "{schema}".open_runs r where r.run = s.stream),
            exists (select from {events} and type = 'EventRouted'),
            (select name from "{schema}".schedules c where c.schedule = s.stream),
            (select min(i.run::text) from "{schema}".inbox i where i.event = s.stream),
            (select file from "{schema}".archived a where a.stream = s.stream)
            from (select %s::uuid as stream) s"""
        self._said = f"""select exists (
            select from "{schema}".events where stream = %s and type = '{ERASED}' and version > 1)"""

    async def erase(self, stream: UUID, reason: str = "", actor: str = "", archive: Path | None = None) -> Erased:
        """Erase the payloads of a run, a published event or a schedule. Again completes one that was broken off.

        Of one that was archived the payloads are taken out of its file, and out of ``archive`` if it was moved there.
        Raises UnknownRun, ErasureRefused, LogError, VaultError, TransferRefused, OSError.
        """
        # A run that was asked for in SQL has its input in the request too; one that was not started, there alone.
        found = [each for each in (await self._look_at(stream), await self._look_at(start_stream(stream))) if each]
        if not found:
            raise UnknownRun(stream, sentence=f"there is no run or published event {stream}")
        for each in found:
            each.check()
        payloads = [await self._erase(each, archive, reason, actor) for each in found]
        return Erased(stream, sum(payloads))

    async def _look_at(self, stream: UUID) -> "_Standing | None":
        rows = await self._session.fetch(self._look, (stream,))
        standing = _Standing(stream, *rows[0])
        return standing if standing.first is not None else None

    async def _erase(self, standing: "_Standing", archive: Path | None, reason: str, actor: str) -> int:
        erased = 0
        if standing.file is None:
            erased = (await self._keeper.erase(standing.stream, reason, actor)).payloads
            # It may have been archived meanwhile, with its payloads.
            standing = await self._look_at(standing.stream) or standing
        if standing.file is not None:
            erased += await self._erase_archived(standing.stream, Path(standing.file), archive, reason, actor)
        return erased

    async def _erase_archived(self, stream: UUID, file: Path, moved: Path | None, reason: str, actor: str) -> int:
        await self._keeper.destroy_key(stream)
        files = {each.resolve() for each in (file, moved) if each is not None and each.is_file()}
        if not files:
            raise ErasureRefused(f"{stream} was archived, and its file {file} is not there: say where it is now")
        # The files first: broken off between the two, the repeat finds nothing in them and says so in the log.
        counts = [await asyncio.to_thread(erase_in, each, stream) for each in files]
        erased = [count for count in counts if count is not None]
        if not erased:
            raise ErasureRefused(f"{stream} was archived in {file}, and {moved} holds nothing of it")
        payloads = max(erased)
        (said,) = await self._session.fetch(self._said, (stream,))
        if payloads or not said[0]:
            await self._keeper.record_archived_erasure(stream, payloads, reason, actor)
        return payloads


class _Standing(NamedTuple):
    """What there is of a stream, and who still needs it."""

    stream: UUID
    first: str | None
    """The type of the first event that is left of it."""
    ended: bool
    routed: bool
    schedule: str | None
    """The name of the schedule that it is."""
    reader: str | None
    file: str | None
    """Where it was archived."""

    def check(self) -> None:
        """Raise ErasureRefused unless it may be erased."""
        if self.first == ARCHIVED:
            return
        if self.first == "RunStarted" and not self.ended:
            raise ErasureRefused(f"run {self.stream} is open and needs its inputs: cancel it first, or let it end")
        if self.first in ("EventPublished", "StartRequested") and not self.routed:
            raise ErasureRefused(f"event {self.stream} was not routed to its runs yet: a node has to do that first")
        if self.reader is not None:
            raise ErasureRefused(
                f"run {self.reader} has not taken in event {self.stream} yet: a node has to do that first"
            )
        if self.schedule is not None:
            raise ErasureRefused(f"schedule {self.schedule} needs its input: delete it first")
        if self.first is None or kind_of(self.first) not in ("run", "event", "schedule"):
            raise ErasureRefused(
                f"{self.stream} is neither a run nor a published event nor a schedule: only their payloads are erased"
            )

"""Snapshots: states of long runs, kept so that a reload need not fold every event. Nothing ever depends on one.

A snapshot is used if it was written by this very code, if the event it names is in its run's stream, and if it is
whole; else the run is folded from its events, as if there were none.
"""

import asyncio
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import UUID

import structlog

import perdure_engine
from perdure_engine.definitions.definition import Definition
from perdure_engine.run.snapshot import SnapshotUnreadable, pack, unpack
from perdure_engine.run.state import RunState
from perdure_eventstore.events import Head
from perdure_eventstore.session import Session

log = structlog.get_logger(__name__)

MAX_BYTES = 256 * 1024 * 1024
"""Of a packed state: one that is larger is not kept."""

_DIGEST_BYTES = 32


class Sealing(Protocol):
    """Encrypts what a snapshot shows of the payloads of its run. Both may raise ``CannotSeal``."""

    async def seal(self, run: UUID, text: bytes) -> bytes:
        """``text``, so that nobody without the run's key can read it."""

    async def unseal(self, run: UUID, text: bytes) -> bytes:
        """What was sealed."""


class CannotSeal(Exception):
    """The run's key is not there, perhaps because the run was erased."""


class Snapshot(NamedTuple):
    """A state, the head it was folded up to, and how many bytes it takes."""

    state: RunState
    head: Head
    size: int


class Snapshots:
    """Keeps the newest snapshot of a run, and finds it again."""

    def __init__(
        self, session: Session, schema: str = "perdure", *, worth: int = 1_000, sealing: Sealing | None = None
    ) -> None:
        """``worth`` is how many events one reads before it is worth asking for a snapshot."""
        self.worth = worth
        self._session, self._sealing = session, sealing
        self._find = f"""select s.version, s.hash, s.format, e.version is not null,
                case when s.format = %s and e.version is not null then s.state end
            from "{schema}".snapshots s
            left join "{schema}".events e on e.stream = s.run and e.version = s.version and e.hash = s.hash
            where s.run = %s and s.version > %s"""
        # Only while the run is open: who ends it meanwhile does not know of this row.
        self._keep = f"""insert into "{schema}".snapshots (run, version, hash, format, state)
            select %s, %s, %s, %s, %s where exists (select from "{schema}".open_runs where run = %s)
            on conflict (run) do update set version = excluded.version, hash = excluded.hash,
                format = excluded.format, state = excluded.state, taken_at = clock_timestamp()"""
        self._delete = f'delete from "{schema}".snapshots where run = %s'
        self._sweep = f"""delete from "{schema}".snapshots s
            where not exists (select from "{schema}".open_runs o where o.run = s.run) returning run"""

    async def newest(self, run: UUID, definition: Definition, after: int) -> Snapshot | None:
        """The snapshot of ``run``, if it is one of a version higher than ``after`` that can be used. Raises LogError.

        Why one cannot is logged.
        """
        rows = await self._session.fetch(self._find, (format_of_this_code(), run, after))
        if not rows:
            return None
        version, hash_, format_, is_event, kept = rows[0]
        head = Head(version, hash_)
        try:
            if not is_event:
                raise SnapshotUnreadable(f"the run has no event {version} with its hash")
            if kept is None:
                raise SnapshotUnreadable(f"it was written by other code ({format_[:8]})")
            state = await self._read(run, head, kept, definition)
        except (SnapshotUnreadable, CannotSeal) as why:
            log.warning("a snapshot is not used, the run is folded", run=str(run), version=version, why=str(why))
            return None
        return Snapshot(state, head, len(kept))

    async def keep(self, state: RunState, head: Head) -> bool:
        """Keep ``state``, folded up to ``head``, for its next reload. False: it cannot be kept. Raises LogError."""
        text = await asyncio.to_thread(pack, state)
        if len(text) > MAX_BYTES:
            log.warning("a run's state is too large for a snapshot", run=str(state.run_id), bytes=len(text))
            return False
        try:
            sealed = text if self._sealing is None else await self._sealing.seal(state.run_id, text)
        except CannotSeal as why:
            log.warning("no snapshot is taken", run=str(state.run_id), why=str(why))
            return False
        whole = _digest(state.run_id, head, sealed) + sealed
        row = (state.run_id, *head, format_of_this_code(), whole, state.run_id)
        await self._session.fetch(self._keep, row)
        return True

    async def delete(self, run: UUID) -> None:
        """Forget the run's snapshot: it has ended, or what stands in it was erased. Raises LogError."""
        await self._session.fetch(self._delete, (run,))

    async def sweep(self) -> int:
        """Delete those of runs that have ended; returns how many. Raises LogError."""
        return len(await self._session.fetch(self._sweep))

    async def _read(self, run: UUID, head: Head, kept: bytes, definition: Definition) -> RunState:
        digest, sealed = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
        if digest != _digest(run, head, sealed):
            raise SnapshotUnreadable("it is damaged")
        text = sealed if self._sealing is None else await self._sealing.unseal(run, sealed)
        state = await asyncio.to_thread(unpack, text, definition)
        if state.run_id != run:
            raise SnapshotUnreadable(f"it is one of run {state.run_id}")
        return state


def _digest(run: UUID, head: Head, sealed: bytes) -> bytes:
    return hashlib.sha256(b"%s%d.%s%s" % (run.bytes, head.version, head.hash or b"", sealed)).digest()


@cache
def format_of_this_code() -> str:
    """A digest of all the code that a state follows from: definitions, events, how they are folded and packed."""
    root = Path(perdure_engine.__file__).parent
    files = [root / "event_codec.py", root / "upcasting.py"]
    for folder in ("definitions", "run", "templates"):
        files += sorted((root / folder).glob("*.py*"))
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:32]

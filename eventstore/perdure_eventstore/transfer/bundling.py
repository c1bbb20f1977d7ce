"""Making a bundle: a stream, its proofs, and the head they lead to."""

from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.head_keeper import HeadKeeper
from perdure_eventstore.heads import is_signed_by, origin, read_note, verifier_key
from perdure_eventstore.session import Session
from perdure_eventstore.transfer.bundle import BareHead, BundleHeader, BundleLines, Proof, ProvenEntry
from perdure_eventstore.transfer.cut import Cut, cut_now
from perdure_eventstore.transfer.entry import TransferRefused
from perdure_eventstore.transfer.frame import Selection, Tally
from perdure_eventstore.transfer.presence import keep_all
from perdure_eventstore.transfer.reading import EntryReader
from perdure_eventstore.tree import Tree


class NothingToProve(LookupError):
    """The stream has no events."""

    def __init__(self, stream: UUID) -> None:
        super().__init__(f"there is no run {stream}")


class Bundled(NamedTuple):
    """What a bundle holds: so many events, and the head they lead to; ``signed`` or not."""

    events: int
    origin: str
    size: int
    root: bytes
    signed: bool


class _Head(NamedTuple):
    header: BundleHeader
    origin: str
    size: int
    root: bytes


class Bundler:
    """Makes bundles of the log's streams."""

    def __init__(
        self, engine: AsyncEngine, keeper: HeadKeeper, key: Ed25519PublicKey | None, schema: str = "perdure"
    ) -> None:
        """``keeper`` signs with the private half of ``key``; without one, a head that is signed already is taken."""
        self._session = Session(engine)
        self._keeper, self._key, self._schema = keeper, key, schema
        self._tree, self._reader = Tree(self._session, schema), EntryReader(self._session, schema)
        self._file = f'select file from "{schema}".archived where stream = %s'
        self._last = f'select max(position) from "{schema}".events where stream = %s and position <= %s'
        self._note = f'select note from "{schema}".heads where position >= %s order by size desc limit 1'
        self._identity = f'select log_id from "{schema}".identity'

    async def bundle(self, stream: UUID, write: Callable[[bytes], object]) -> Bundled:
        """Write the bundle of ``stream`` as it is now.

        Raises NothingToProve, TransferRefused for one that was archived, PublishingFailed, LogError.
        """
        try:
            await keep_all(self._session, self._schema)
            await self._check_is_here(stream)
            mark = (await cut_now(self._session, self._schema)).mark
            ((last,),) = await self._session.fetch(self._last, (stream, mark))
            if last is None:
                raise NothingToProve(stream)
            head = await self._head(stream, last, mark)
            events = await self._write(stream, mark, head, write)
        finally:
            await self._session.close()
        return Bundled(events, head.origin, head.size, head.root, head.header.note is not None)

    async def _check_is_here(self, stream: UUID) -> None:
        if rows := await self._session.fetch(self._file, (stream,)):
            raise TransferRefused(
                f"run {stream} was archived: its events are in {rows[0][0]}, and a bundle takes them from the log"
            )

    async def _head(self, stream: UUID, last: int, mark: int) -> _Head:
        """The newest signed head that holds the event at ``last``, or one signed now; without a key, a bare root."""
        notes = await self._session.fetch(self._note, (last,))
        if not notes and self._key is None:
            extent = await self._tree.grow(mark)
            name, root = (
                origin((await self._session.fetch(self._identity))[0][0]),
                await self._tree.root_at(extent.size),
            )
            bare = BareHead(name, extent.size, root.hex())
            return _Head(BundleHeader(stream, unsigned=bare), name, extent.size, root)
        note = notes[0][0] if notes else (await self._keeper.sign(mark)).note
        head = read_note(note)
        key = verifier_key(head.origin, self._key) if self._key and is_signed_by(note, self._key) else None
        return _Head(BundleHeader(stream, note, key), head.origin, head.size, head.root)

    async def _write(self, stream: UUID, mark: int, head: _Head, write: Callable[[bytes], object]) -> int:
        form, tally = BundleLines(), Tally()

        def put(line: bytes) -> None:
            tally.take(line)
            write(line)

        put(form.header(head.header))
        async for page in self._reader.read(Cut(mark, []), Selection(streams=(stream,))):
            if not page:
                continue
            proofs = await self._tree.inclusions([entry.event.position for entry in page], head.size)
            for entry, proof in zip(page, proofs, strict=True):
                put(form.entry(ProvenEntry(entry, Proof(proof.index, proof.path))))
                tally.count(entry.event.position, entry.event.version)
        write(form.trailer(tally.trailer()))
        return tally.events

"""Keeps the tree grown, and its heads signed and published. One process does it at a time; any number may try."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import psycopg
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.errors import LogError, domain_error
from perdure_eventstore.feed import Feed
from perdure_eventstore.heads import HeadRefused, TreeHead, origin, read_note, sign
from perdure_eventstore.merkle import is_consistent
from perdure_eventstore.outlets import Outlet, PublishingFailed
from perdure_eventstore.session import Session
from perdure_eventstore.tree import BATCH_CHUNKS, Extent, Tree, TreeFault

log = structlog.get_logger(__name__)

_TURN_POLL = 0.05
_TURN_PATIENCE = 30.0


class ForkedLog(TreeFault):
    """The log is not the one whose heads were signed: events were changed, moved or cut off."""


class NothingToSign(LogError):
    """The log is empty."""


class Signed(NamedTuple):
    """A signed head. ``new``: it was signed just now; otherwise the log has not grown since."""

    head: TreeHead
    note: str
    new: bool


class HeadKeeper:
    """Signs with ``key`` and publishes at ``outlets``; without a key it only keeps the tree grown.

    Before a head is signed it is shown to go on from the last one in the database, in this process's memory and in
    each outlet. What could not be published is tried again in the next round.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        schema: str = "perdure",
        key: Ed25519PrivateKey | None = None,
        outlets: Sequence[Outlet] = (),
    ) -> None:
        self._session = Session(engine)
        self._tree = Tree(self._session, schema)
        self._key, self._outlets = key, outlets
        self._known: TreeHead | None = None
        self._due: dict[Outlet, str] = {}
        self._begun = False
        self._lock: Final = f"perdure heads of {schema}"
        self._identity = f'select log_id, clock_timestamp() from "{schema}".identity'
        self._last = f'select note from "{schema}".heads order by size desc limit 1'
        self._insert = f"""insert into "{schema}".heads (size, position, root, note, signed_at)
            values (%s, %s, %s, %s, %s)"""

    async def run(self, feed: Feed, interval: float) -> None:
        """Do a round every ``interval`` seconds in which the log grew, for ever; cancel to end."""
        done = -1
        try:
            while True:
                mark = feed.mark if self._due else await feed.beyond(done)
                try:
                    if await self.run_once(mark):
                        done = mark
                except (TreeFault, PublishingFailed) as error:
                    log.error("no head is signed", error=str(error))
                except LogError as error:
                    log.warning("heads lost the log", error=str(error), retry_in=interval)
                await asyncio.sleep(interval)
        finally:
            await self.close()

    async def run_once(self, mark: int) -> bool:
        """Grow the tree to the settled ``mark``, sign and publish; False if another process is at it.

        A failure to publish is logged. Raises ForkedLog, TreeFault, LogError.
        """
        turn = await self._round(mark)
        for failure in await self._publish():
            log.error("a head was not published, it is tried again", error=str(failure))
        return turn is not None

    async def sign(self, mark: int) -> Signed:
        """Sign a head of the log up to the settled ``mark`` and publish it, waiting for others who do.

        Raises ForkedLog, NothingToSign, PublishingFailed, LogError; ValueError without a key.
        """
        if self._key is None:
            raise ValueError("there is no key to sign with")
        try:
            async with asyncio.timeout(_TURN_PATIENCE):
                while (turn := await self._round(mark)) is None:
                    await asyncio.sleep(_TURN_POLL)
        except TimeoutError:
            raise LogError(f"another process has been signing for {_TURN_PATIENCE:g} s") from None
        if turn.signed is None:
            raise NothingToSign("the log has no settled event yet: there is nothing to sign")
        for failure in await self._publish():
            raise failure
        return turn.signed

    async def close(self) -> None:
        """Give the connection up."""
        await self._session.close()

    async def _round(self, mark: int) -> "_Turn | None":
        """Grow and sign, in short transactions; None if it is another one's turn."""
        while True:
            async with self._turn() as mine:
                if not mine:
                    return None
                if await self._tree.grow_once(mark) < BATCH_CHUNKS:
                    extent = await self._tree.grow(mark)
                    turn = _Turn(await self._sign(extent) if self._key else None)
                    break
        if turn.signed and (turn.signed.new or not self._begun):
            # Not new, and the first this process meets: the one that signed it may have died before it was published.
            self._due = dict.fromkeys(self._outlets, turn.signed.note)
        self._begun = True
        return turn

    async def _sign(self, extent: Extent) -> Signed | None:
        """The head of now. Raises ForkedLog, PublishingFailed where an outlet cannot be read."""
        assert self._key is not None
        ((log_id, now),) = await self._session.fetch(self._identity)
        rows = await self._session.fetch(self._last)
        last = Signed(_read("the database", rows[0][0]), rows[0][0], False) if rows else None
        head = TreeHead(origin(log_id), extent.size, await self._tree.root_at(extent.size), extent.position, now)
        for known in await self._earlier(last):
            await self._check(known, head)
        if last and last.head.size >= extent.size:
            self._known = last.head
            return last
        if not extent.size:
            return None
        note = sign(head, self._key)
        await self._session.fetch(self._insert, (head.size, head.position, head.root, note, now))
        self._known = head
        return Signed(head, note, True)

    async def _earlier(self, last: Signed | None) -> list[TreeHead]:
        """The heads that the next one must go on from."""
        heads = {last.head} if last else set()
        if self._known:
            heads.add(self._known)
        for outlet in self._outlets:
            if note := await outlet.last():
                heads.add(_read("what was published", note))
        return sorted(heads, key=lambda head: head.size)

    async def _check(self, known: TreeHead, head: TreeHead) -> None:
        if known.origin != head.origin:
            raise ForkedLog(
                f"the last head was published for another log, {known.origin}, and this one is {head.origin}: "
                "publish each log's heads at a place of their own"
            )
        try:
            if known.size < head.size:
                path = await self._tree.consistency(known.size, head.size) if known.size else []
                same = is_consistent(known.size, head.size, known.root, head.root, path)
            else:
                # Signed by a process that had seen more of the log: it must be there all the same.
                same = await self._tree.root_at(known.size) == known.root
        except TreeFault as error:
            raise ForkedLog(_forked(known, str(error))) from error
        if not same:
            raise ForkedLog(_forked(known, "its events are others"))

    async def _publish(self) -> list[PublishingFailed]:
        failures = []
        for outlet, note in list(self._due.items()):
            try:
                await outlet.publish(note)
            except PublishingFailed as error:
                failures.append(error)
            else:
                del self._due[outlet]
        return failures

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[bool]:
        """A transaction in which this process alone, or another one, keeps the tree; nobody waits.

        Of one that is frozen in it the server ends the session, by idle_in_transaction_session_timeout.
        """
        connection = await self._session.connection()
        try:
            async with connection.transaction():
                rows = await self._session.fetch(
                    "select pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (self._lock,)
                )
                yield rows[0][0]
        except psycopg.Error as error:
            raise domain_error(error) from error


class _Turn(NamedTuple):
    """What came of a turn that was ours."""

    signed: Signed | None


def _read(where: str, note: str) -> TreeHead:
    try:
        return read_note(note)
    except HeadRefused as error:
        raise ForkedLog(f"the last head in {where} is not a head: {error}") from error


def _forked(known: TreeHead, reason: str) -> str:
    return (
        f"the log does not begin with the {known.size} events of the head signed at {known.signed_at:%Y-%m-%d %H:%M:%S}"
        f" UTC ({reason}): nothing is signed; `perdure verify` says where it was changed"
    )

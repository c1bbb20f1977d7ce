"""The inbox: what reached this node's runs from outside, handed to each run's mailbox."""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import orjson

from perdure_engine.bound import Bound
from perdure_engine.facts import EventPublished, decode_fact
from perdure_engine.identity import start_stream
from perdure_engine.results import Result, read_result
from perdure_engine.run.commands import PauseRun, ReceiveEvent, ResumeRun, RunCommand, StopRun
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

_BATCH = 500

COMMANDS: Mapping[str, Callable[[datetime, str], RunCommand]] = {
    "cancel": lambda at, reason: StopRun(at=at, outcome="cancelled", reason=reason),
    "pause": lambda at, reason: PauseRun(at=at, reason=reason),
    "resume": lambda at, reason: ResumeRun(at=at, reason=reason),
}
"""What may be asked of a run, by its name: made of a time and a reason."""


class Letter(NamedTuple):
    """One inbox row.

    ``kind`` is "event" (a published event, ``event`` its stream), "started" (a run to adopt), "schedule" (there may be
    one that nobody here knows of), "attempt" (what came of one on another node), or a command of ``COMMANDS``
    (``detail`` has its reason).
    """

    id: int
    run: UUID
    kind: str
    event: UUID | None
    detail: bytes | None = None
    payload: bytes | None = None


class Inbox:
    """Reads rows of this node's shards. A row stays until the append that consumed it deleted it."""

    THERE: Final = "shard = any(%s) and id > %s and id <> all(%s)"
    """Which rows were not handed out yet."""

    def __init__(
        self, session: Session, fence: tuple[UUID, int], schema: str, vault: "Vault | None" = None
    ) -> None:  # fmt: skip
        """``fence`` is the node and its epoch."""
        self._session, self._vault = session, vault
        self._reader = Reader(session, schema, vault)
        self._handed: set[int] = set()
        self._useless: set[int] = set()
        self._early: set[int] = set()
        self._bound = Bound[int](0)
        self._select = f"""select id, run, kind, event, detail, payload from "{schema}".inbox
            where {self.THERE} order by id limit {_BATCH}"""
        self._asked = f'select max(version) from "{schema}".events where stream = %s'
        # What made no difference to a sleeper's run may make one to its heir's.
        self._fence = fence
        self._delete = f"""delete from "{schema}".inbox where id = any(%s)
            and exists (select from "{schema}".nodes n where n.node = %s and n.epoch = %s)"""

    def asked(self, shards: Collection[int]) -> tuple[list[int], int, list[int]]:
        """The parameters of ``THERE``."""
        return list(shards), self._bound.above(), list(self._handed)

    def exhausted(self) -> None:
        """There is no row that was not handed out, by the parameters that were ``asked`` last."""
        self._bound.exhausted()

    @property
    def has_useless(self) -> bool:
        """Whether there are rows to be deleted with the next ``read``."""
        return bool(self._useless)

    async def read(self, shards: Collection[int]) -> list[Letter]:
        """Rows not handed out yet, oldest first; each is handed out once until ``forget``."""
        if self._useless:
            useless = list(self._useless)
            await self._session.fetch(self._delete, (useless, *self._fence))
            self._useless.difference_update(useless)
            self.forget(useless)
        rows = await self._session.fetch(self._select, self.asked(shards))
        letters = [Letter(*row) for row in rows]
        if letters:
            self._bound.seen(letters[-1].id)
        else:
            self.exhausted()
        self._handed.update(letter.id for letter in letters)
        return letters

    async def command(self, letter: Letter, at: datetime) -> RunCommand:
        """What ``letter`` asks of its run. Raises LookupError for one of a kind that is not known here."""
        if letter.kind in COMMANDS:
            reason = str(orjson.loads(letter.detail or b"{}").get("reason", ""))
            return COMMANDS[letter.kind](at, reason)
        if letter.kind == "attempt":
            payload = letter.payload
            if payload is not None and self._vault is not None:
                payload = await self._vault.unseal_state(letter.run, payload)
            return read_result(Result(letter.detail or b"", payload), at)
        if letter.kind != "event" or letter.event is None:
            raise LookupError(f"there is no command {letter.kind!r}")
        published = await self._event(letter.event)
        return ReceiveEvent(
            at=at, event=published.name, event_id=letter.event, payload=published.payload, key=published.key
        )

    async def _event(self, event: UUID) -> EventPublished:
        async for recorded in self._reader.stream(event, batch=1):
            published: EventPublished = decode_fact(recorded)
            return published
        raise LookupError(f"there is no published event {event}")

    def discard(self, ids: Collection[int]) -> None:
        """Delete, with the next ``read``, rows that made no difference to their run."""
        self._useless.update(ids)

    async def is_to_come(self, run: UUID) -> bool:
        """Whether the run was asked for, and no router has come to that yet."""
        return bool((await self._session.fetch(self._asked, (start_stream(run),)))[0][0] == 1)

    def postpone(self, letter: Letter) -> None:
        """Hand ``letter`` out again, but not before ``take_up``: it came before its run."""
        self._early.add(letter.id)

    def sweep(self) -> None:
        """Look at everything with the next ``read``: these shards' rows may be old."""
        self._bound.lift()

    def take_up(self) -> None:
        """Hand out again what was postponed."""
        self.hand_again(self._early)
        self._early.clear()

    def hand_again(self, ids: Collection[int]) -> None:
        """These rows are still there, and undecided."""
        if ids:
            self._bound.lift()
            self.forget(ids)

    def forget(self, ids: Collection[int]) -> None:
        """These rows are gone, or their run is no longer this node's."""
        self._handed.difference_update(ids)

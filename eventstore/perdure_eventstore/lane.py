"""One connection's share of group commit: a batch at a time, until its outcome is known."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection
from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential, wait_random

from perdure_eventstore.append import Appended, Batch, Entry, Statement, Together, flat, send
from perdure_eventstore.clock import Clock
from perdure_eventstore.errors import AppendRefused, ClockDrift, Conflict, LogError, LogUnavailable, Raced, domain_error
from perdure_eventstore.events import Head
from perdure_eventstore.session import Session
from perdure_eventstore.vault.errors import VaultError

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

T = TypeVar("T")

Answer = Appended | list[Appended] | LogError
"""What an append is told; for several together, where each landed."""

log = structlog.get_logger(__name__)


class Lane:
    """Sends batches one after another on a connection of its own.

    When the connection breaks, nobody knows whether the batch was committed: the same batch is sent again, and what
    turns out to be there already, by its event ids, counts as appended.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        statement: Statement,
        clock: Clock,
        schema: str,
        patience: float,
        vault: "Vault | None" = None,
    ) -> None:
        """``patience`` is how many seconds a batch waits for a database that cannot be reached."""
        self._session, self._vault = Session(engine), vault
        self._statement, self._clock, self._patience = statement, clock, patience
        self._own = (
            f'select position, version, hash from "{schema}".events e where stream = %s and version >= %s '
            f'and exists (select from "{schema}".events f where f.stream = e.stream and f.version = %s and f.id = %s) '
            "order by version"
        )

    async def commit(self, entries: Sequence[Entry]) -> list[Answer]:
        """Append in one statement; each entry's answer. A bad one alone suffers for itself."""
        if self._vault is None:
            return await self._commit(entries)
        vault = self._vault
        try:
            sealed = await self._patiently(partial(vault.seal, entries))
        except LogError as error:
            return [error] * len(entries)
        except VaultError as error:
            return [_unsealed(error)] * len(entries)
        committed = iter(await self._commit([each for each in sealed if not isinstance(each, VaultError)]))
        return [_unsealed(each) if isinstance(each, VaultError) else next(committed) for each in sealed]

    async def close(self) -> None:
        """Give the connection up."""
        await self._session.close()

    async def _commit(self, entries: Sequence[Entry]) -> list[Answer]:
        if not entries:
            return []
        batch = Batch(entries)
        if len({append.stream for append in batch.appends}) < len(batch.appends):
            # Two that want the same place in a stream would race each other in one statement, again and again.
            return await self._in_turns(entries)
        try:
            return _by_entry(batch, await self._send(batch))
        except (AppendRefused, ClockDrift) as error:
            if len(entries) == 1:
                return [error]
            # The statement does not say which of them is bad; or they are more than can be sent within the drift.
            return [answer for entry in entries for answer in await self._commit([entry])]
        except LogError as error:
            return [error] * len(entries)

    async def _in_turns(self, entries: Sequence[Entry]) -> list[Answer]:
        """Those of each stream that come first, together, and then the others."""
        met: set[UUID] = set()
        turns: tuple[list[int], list[int]] = ([], [])
        for number, entry in enumerate(entries):
            streams = {append.stream for append in flat([entry])}
            turns[not met.isdisjoint(streams)].append(number)
            met |= streams
        answers: dict[int, Answer] = {}
        for turn in turns:
            committed = await self._commit([entries[number] for number in turn])
            answers.update(zip(turn, committed, strict=True))
        return [answers[number] for number in range(len(entries))]

    async def _send(self, batch: Batch) -> list[Appended | LogError]:
        """Send until the outcome is known. Raises LogUnavailable when patience runs out, or what the log refused."""
        unsure = False

        async def attempt() -> list[Appended | LogError]:
            nonlocal unsure
            try:
                return await self._send_once(batch, may_be_ours=unsure)
            except LogUnavailable as error:
                if not unsure:
                    log.warning("log unreachable, trying again", error=str(error), appends=len(batch.appends))
                unsure = True
                raise

        return await self._patiently(attempt)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await attempt()
        except (LogUnavailable, Raced):
            again = AsyncRetrying(
                retry=retry_if_exception_type((LogUnavailable, Raced)),
                wait=wait_exponential(0.02, max=1.0) + wait_random(0, 0.05),
                stop=stop_after_delay(self._patience),
                reraise=True,
            )
        return await again(attempt)

    async def _send_once(self, batch: Batch, *, may_be_ours: bool) -> list[Appended | LogError]:
        try:
            connection = await self._session.connection()
            answers = await send(connection, self._statement, batch, self._clock)
            return [answer or await self._loser(connection, batch, i, may_be_ours) for i, answer in enumerate(answers)]
        except LogUnavailable:
            await self._session.close()
            raise

    async def _loser(
        self, connection: AsyncConnection[Any], batch: Batch, index: int, may_be_ours: bool
    ) -> Appended | LogError:
        """What to tell an append that came too late: after a broken connection it may have met itself.

        Of those that were left out together, only who lost is told so here; ``_by_entry`` tells the others.
        """
        append = batch.appends[index]
        if may_be_ours:
            version = append.expected.version + 1
            own = (append.stream, version, version, UUID(bytes=batch.first_ids[index]))
            try:
                rows = await (await connection.execute(self._own, own)).fetchall()
            except psycopg.Error as error:
                raise domain_error(error) from error
            if rows:
                mine = rows[: len(append.events)]
                return Appended(Head(mine[-1][1], mine[-1][2]), [position for position, *_ in mine])
        return Conflict(append.stream, append.expected.version)


def _unsealed(error: VaultError) -> AppendRefused:
    return AppendRefused(f"it cannot be encrypted: {error}")


def _by_entry(batch: Batch, answers: Sequence[Appended | LogError]) -> list[Answer]:
    """The answers to appends as answers to entries: of several together, the loser's is that of all."""
    if not any(isinstance(entry, Together) for entry in batch.entries):
        return [*answers]
    found: list[Answer] = []
    n = 0
    for entry in batch.entries:
        if not isinstance(entry, Together):
            found.append(answers[n])
            n += 1
            continue
        company = range(n, n + len(entry.appends))
        n = company.stop
        errors = {i: answer for i in company if isinstance(answer := answers[i], LogError)}
        if errors:
            found.append(errors[min(errors, key=lambda i: i not in batch.losers)])
        else:
            found.append([answer for i in company if isinstance(answer := answers[i], Appended)])
    return found

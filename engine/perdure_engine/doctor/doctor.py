"""The doctor: compares the working set with the log, beside nodes at work, and rebuilds what is wrong.

A look is one repeatable-read snapshot. Rows commit with the events that cause them, so in a snapshot they are equal at
every moment; whatever differs is a fault. To rebuild, appends are held up for a moment: what was found is looked at
again under a lock that lets nobody write, and mended in that transaction.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg
import structlog
from psycopg import AsyncConnection
from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from perdure_engine.doctor.assigned import is_missing
from perdure_engine.doctor.definitions import check_definitions
from perdure_engine.doctor.faults import Fault
from perdure_engine.doctor.inbox import check_inbox
from perdure_engine.doctor.mending import mend
from perdure_engine.doctor.places import check_permits, check_router, check_shards, check_staged
from perdure_engine.doctor.runs import check_runs
from perdure_engine.doctor.schedules import check_schedules
from perdure_engine.doctor.snapshot import Snapshot, one_moment
from perdure_eventstore.errors import LogError, LogUnavailable

if TYPE_CHECKING:
    from perdure_engine.definitions.definition import Definition
    from perdure_eventstore.vault.vault import Vault

log = structlog.get_logger(__name__)

Check = Callable[[Snapshot, Sequence[Fault] | None], AsyncIterator[Fault]]

CHECKS: Final[tuple[Check, ...]] = (
    check_definitions,
    check_runs,
    check_inbox,
    check_router,
    check_shards,
    check_permits,
    check_staged,
    check_schedules,
)
"""Each for some of the tables: all of what is wrong there, or what still is of what was found before."""

_LOCKED: Final = (
    "open_runs", "timers", "waits", "inbox", "assignments", "permits", "definitions", "router", "shards", "schedules",
)  # fmt: skip
_WAIT = "set local lock_timeout = '2s'"
_TRIES = 5
_ON_THE_WAY = 2.0
"""Seconds from taking an attempt back to the record of it, and more."""


class Diagnosis(NamedTuple):
    """What was found, and whether it was made good."""

    faults: list[Fault]
    remarks: list[str]
    """What could not be checked, and what is no fault and yet worth knowing."""
    repaired: bool = False
    """Whether the faults, but for those that say why they cannot be, were rebuilt."""

    @property
    def left(self) -> list[Fault]:
        """The faults that are still there."""
        return [fault for fault in self.faults if fault.lost or not self.repaired]


class Doctor:
    """Looks at one schema of one database."""

    def __init__(
        self,
        engine: AsyncEngine,
        schema: str,
        definition: "Callable[[str], Awaitable[Definition]]",
        vault: "Vault | None" = None,
    ) -> None:
        """``definition`` compiles the one of a digest, and raises KeyError if there is none."""
        self._engine, self._schema, self._definition, self._vault = engine, schema, definition, vault

    async def look(self) -> Diagnosis:
        """Compare everything; nothing is changed. What may be on its way is looked at twice. Raises LogError."""
        found = await self._look(None)
        if not any(map(is_missing, found.faults)):
            return found
        await asyncio.sleep(_ON_THE_WAY)
        again = (await self._look([fault for fault in found.faults if is_missing(fault)])).faults
        return found._replace(faults=[each for each in found.faults if not is_missing(each) or each in again])

    async def _look(self, only: Sequence[Fault] | None) -> Diagnosis:
        async with one_moment(self._engine, read_only=True) as connection:
            return await self._compare(connection, only)

    async def repair(self) -> Diagnosis:
        """Compare everything, and rebuild what is wrong in one transaction. Raises LogError.

        It holds up every append for as long as it takes to look at the wrong rows again; not being let in, it tries
        again a few times.
        """
        found = await self.look()
        if not found.faults:
            return found
        again = AsyncRetrying(
            retry=retry_if_exception_type(LogUnavailable),
            wait=wait_random_exponential(0.5, max=5),
            stop=stop_after_attempt(_TRIES),
            reraise=True,
        )
        return await again(self._rebuild, found)

    async def _rebuild(self, found: Diagnosis) -> Diagnosis:
        async with one_moment(self._engine, read_only=False) as connection:
            await self._lock(connection)
            wrong = await self._compare(connection, found.faults)
            faults = await mend(self._snapshot(connection, []), wrong.faults)
        log.info("the working set was rebuilt where it was wrong", rows=len(faults))
        return Diagnosis(faults, found.remarks, repaired=True)

    async def _compare(self, connection: AsyncConnection[Any], only: Sequence[Fault] | None) -> Diagnosis:
        snapshot = self._snapshot(connection, [])
        faults = [fault for check in CHECKS async for fault in check(snapshot, only)]
        return Diagnosis(faults, snapshot.remarks)

    def _snapshot(self, connection: AsyncConnection[Any], remarks: list[str]) -> Snapshot:
        return Snapshot(connection, self._schema, self._vault, self._definition, remarks)

    async def _lock(self, connection: AsyncConnection[Any]) -> None:
        """Let nobody write, from before the snapshot. The log first, as every append has it."""
        await connection.execute(_WAIT)
        try:
            for tables in (("events",), _LOCKED):
                names = ", ".join(f'"{self._schema}".{table}' for table in tables)
                await connection.execute(f"lock table {names} in share row exclusive mode".encode())
        except psycopg.errors.LockNotAvailable as error:
            raise LogUnavailable(
                "somebody has been writing to the log for longer than appends may be held up: repair it later"
            ) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise LogError(
                f"{error.diag.message_primary}: to rebuild the working set, connect as the owner of the schema"
            ) from error

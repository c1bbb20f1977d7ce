"""Attempts that this node executes for the owners of runs held elsewhere (see ``dispatch``)."""

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import structlog
from psycopg import AsyncConnection as RawConnection
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure_engine.attempt import Attempt, Order
from perdure_engine.attempts import Attempts
from perdure_engine.bound import Bound
from perdure_engine.exactly_once import AttemptSuperseded
from perdure_engine.placement import Placement
from perdure_engine.registry import Registry
from perdure_engine.results import Result, write_result
from perdure_engine.run.codec import decode
from perdure_engine.run.commands import AttemptEnd, CancelAttempt, InterruptAttempt
from perdure_engine.run.events import TaskDelayed, TaskScheduled
from perdure_eventstore.door import NULL, Json
from perdure_eventstore.errors import FenceLost
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session
from perdure_eventstore.vault.errors import VaultError

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

log = structlog.get_logger(__name__)

Key = tuple[UUID, str]
"""A run and a task of it."""

_Ended = tuple[Key, int, AttemptEnd]
"""An attempt of a task, and what came of it."""


class _Row(NamedTuple):
    node: UUID
    run: UUID
    task_id: str
    attempt: int
    token: int
    digest: str
    scheduled: int | None
    failures: int
    cancelled: bool
    id: int


class Assignments:
    """Implements ``attempt.Home``. A row stays until the result that takes its place is in the inbox."""

    THERE: Final = "node = %s and id > %s"
    """Which rows may be new."""

    def __init__(
        self,
        session: Session,
        registry: Registry,
        attempts: Attempts,
        placement: Placement,
        fence: tuple[UUID, int],
        now: Callable[[], datetime],
        schema: str,
        fenced: Callable[[], None],
        vault: "Vault | None" = None,
    ) -> None:
        """``fence`` is this node and its epoch; ``fenced`` is called when it no longer holds."""
        self._session, self._registry, self._attempts, self._placement = session, registry, attempts, placement
        self._reader, self._vault = Reader(session, schema, vault), vault
        self._fence, self._now, self._fenced = fence, now, fenced
        self._bound = Bound[int](0)
        self._mine: dict[Key, int] = {}
        """What was taken up, with its attempt."""
        self._waiting: set[tuple[Key, int]] = set()
        """What of it waits for a slot here."""
        self._ended: set[tuple[Key, int]] = set()
        """What has ended since the rows were last asked for: its row may be among those that are on their way."""
        self._leaving: set[tuple[Key, int]] = set()
        self._results: list[_Ended] = []
        self.has_results = asyncio.Event()
        rows, events = f'"{schema}".assignments', f'"{schema}".events'
        columns = "node, run, task_id, attempt, token, digest, scheduled, failures, cancelled, id"
        # What was taken up long ago is asked for by its key, one by one: of a table that looks empty and is full of
        # dead rows, a join may read everything.
        self._select = f"""select {columns} from {rows} where {self.THERE}
            union all select there.* from unnest(%s::uuid[], %s::text[]) mine (run, task_id) cross join lateral (
                select {columns} from {rows} r where r.run = mine.run and r.task_id = mine.task_id limit 1) there
            where node = %s"""
        self._find = f"""select min(version) from {events} where stream = %s
            and type in ('TaskScheduled', 'TaskDelayed') and data ->> 'task_id' = %s"""
        self._tell = f"""with fence as materialized (
                select node from "{schema}".nodes where node = %s and epoch = %s for key share
            ), r as materialized (
                select * from unnest(%s::uuid[], %s::text[], %s::integer[], %s::text[], %s::bytea[])
                    r(run, task_id, attempt, detail, payload)
            ), ended as (
                delete from {rows} a using fence, r
                where a.run = any(array(select r.run from r)) and a.run = r.run and a.task_id = r.task_id
                    and a.attempt = r.attempt and a.node is not distinct from fence.node
                returning a.run, a.shard, r.detail, r.payload
            ), told as (
                insert into "{schema}".inbox (run, shard, kind, detail, payload)
                select run, shard, 'attempt', detail::json, payload from ended
            )
            select (select count(*) from fence), (select count(*) from ended), pg_notify('{schema}', '')"""

    def __len__(self) -> int:
        return len(self._mine)

    def asked(self) -> tuple[UUID, int]:
        """The parameters of ``THERE``."""
        return self._fence[0], self._bound.above()

    def exhausted(self) -> None:
        """There is no row that may be new, by the parameters that were ``asked`` last."""
        self._bound.exhausted()

    async def take_up(self) -> None:
        """Execute what is assigned to this node, and end what is taken back or cancelled."""
        self._ended.clear()
        # Those that are adopted meanwhile need not be among the rows.
        mine = dict(self._mine)
        keys = [run for run, _ in mine], [task_id for _, task_id in mine]
        rows = [_Row(*row) for row in await self._session.fetch(self._select, (*self.asked(), *keys, self._fence[0]))]
        there = {(row.run, row.task_id): row for row in rows}
        for key, attempt in mine.items():
            row = there.get(key)
            if self._mine.get(key) == attempt and (row is None or row.attempt != attempt or row.cancelled):
                self._end(key, attempt, is_there=row is not None and row.attempt == attempt)
        for key, row in there.items():
            if self._mine.get(key) != row.attempt and (key, row.attempt) not in self._ended | self._leaving:
                await self._take_up(key, row)
        self._bound.exhausted()
        if rows:
            self._bound.seen(max(row.id for row in rows))

    async def _take_up(self, key: Key, row: _Row) -> None:
        if self._attempts.is_under_way(*key):
            # One before it, which is to end first.
            self._bound.lift()
            return
        self._mine[key] = row.attempt
        try:
            await self._take(key, row)
        except BaseException:
            # Postgres went away: the next look takes it up.
            self._forget(key, row.attempt)
            self._bound.lift()
            raise

    def _end(self, key: Key, attempt: int, *, is_there: bool) -> None:
        """End what was taken back, or cancelled and is still there."""
        if (key, attempt) not in self._waiting:
            self._attempts.cancel(*key)
            return
        self._waiting.discard((key, attempt))
        if is_there:
            self.report(key[0], CancelAttempt(at=self._now(), task_id=key[1], attempt=attempt))
        else:
            self._forget(key, attempt)

    @contextmanager
    def handing_over(self, attempts: Collection[tuple[Key, int]]) -> Iterator[None]:
        """Meanwhile there may be rows of ``attempts``, which this node began for runs of its own: none begins again."""
        self._leaving |= set(attempts)
        try:
            yield
        finally:
            self._leaving -= set(attempts)

    def adopt(self, attempts: Collection[Attempt]) -> None:
        """Their runs are another node's now: what comes of them is told to it."""
        for attempt in attempts:
            self._mine[attempt.order.run_id, attempt.order.spec.task_id] = attempt.order.attempt
            attempt.home = self

    def report(self, run: UUID, command: AttemptEnd) -> None:
        """Tell the owner of ``run`` what came of an attempt, with the next ``flush``."""
        key = run, command.task_id
        self._mine[key] = command.attempt
        self._results.append((key, command.attempt, command))
        self.has_results.set()

    async def flush(self) -> None:
        """Tell the owners what came of their attempts."""
        while self._results:
            results = self._results[:500]
            sealed = [await self._sealed(each) for each in results]
            parameters = (
                [key[0] for key, _, _ in results], [key[1] for key, _, _ in results],
                [attempt for _, attempt, _ in results], [result.detail.decode() for result in sealed],
                [result.payload for result in sealed],
            )  # fmt: skip
            rows = await self._session.fetch(self._tell, (*self._fence, *parameters))
            del self._results[: len(results)]
            for key, attempt, _ in results:
                self._forget(key, attempt)
            self._check(rows[0][0])

    # What an attempt needs of its home.

    def ended(self, attempt: Attempt, command: AttemptEnd | None) -> None:
        order = attempt.order
        try:
            self._placement.free(order.spec.type)
        finally:
            if command is None:
                self._forget((order.run_id, order.spec.task_id), order.attempt)
            else:
                self.report(order.run_id, command)

    async def keep(self, attempt: Attempt, output: Json, connection: AsyncConnection) -> None:
        raw = (await connection.get_raw_connection()).driver_connection
        assert isinstance(raw, RawConnection)
        order = attempt.order
        result = await self._seal(order.run_id, write_result(attempt.completed(self._now(), output)))
        parameters = [order.run_id], [order.spec.task_id], [order.attempt], [result.detail.decode()], [result.payload]
        row = await (await raw.execute(self._tell.encode(), (*self._fence, *parameters))).fetchone()
        assert row is not None
        self._check(row[0])
        if row[1] == 0:
            raise AttemptSuperseded
        await connection.commit()

    def fenced(self, error: FenceLost) -> None:
        log.warning("this node was taken for dead", reason=str(error))
        self._fenced()

    # What follows is its own.

    async def _take(self, key: Key, row: _Row) -> None:
        try:
            definition = await self._registry.definition(row.digest)
            spec = definition.tasks[row.task_id]
            inputs = await self._inputs(row)
        except (LookupError, ValueError, VaultError) as error:
            log.error(
                "an attempt that was assigned cannot be read", run=str(row.run), task=row.task_id, error=str(error)
            )
            self.report(row.run, InterruptAttempt(at=self._now(), task_id=row.task_id, attempt=row.attempt))
            return
        order = Order(row.run, definition.workflow_id, spec, row.attempt, inputs, row.failures, row.token)
        if self._placement.admit(spec, None, partial(self._begin, order)):
            self._attempts.start(order, self)
        else:
            self._waiting.add((key, row.attempt))

    def _begin(self, order: Order) -> None:
        """There is a slot for what waited; it may have been taken back or cancelled by now."""
        waiting = (order.run_id, order.spec.task_id), order.attempt
        if waiting in self._waiting:
            self._waiting.discard(waiting)
            self._attempts.start(order, self)
        else:
            self._placement.free(order.spec.type)

    async def _inputs(self, row: _Row) -> Json:
        version = row.scheduled
        if version is None:
            version = (await self._session.fetch(self._find, (row.run, row.task_id)))[0][0]
        if version is None:
            raise LookupError(f"run {row.run} has no task {row.task_id} that was scheduled")
        async for recorded in self._reader.stream(row.run, after=version - 1, batch=1):
            event = decode(recorded)
            assert isinstance(event, TaskScheduled | TaskDelayed)
            return event.inputs or NULL
        raise LookupError(f"run {row.run} has no version {version}")

    async def _sealed(self, ended: _Ended) -> Result:
        """What is told of it. What cannot be encrypted is told as an interruption, which has nothing to hide."""
        key, attempt, command = ended
        try:
            return await self._seal(key[0], write_result(command))
        except VaultError as error:
            log.error("what came of an attempt cannot be encrypted", run=str(key[0]), task=key[1], error=str(error))
            return write_result(InterruptAttempt(at=self._now(), task_id=key[1], attempt=attempt))

    async def _seal(self, run: UUID, result: Result) -> Result:
        if self._vault is None or result.payload is None:
            return result
        return result._replace(payload=await self._vault.seal_state(run, result.payload))

    def _check(self, fences: int) -> None:
        if fences == 0:
            self._fenced()
            raise FenceLost(f"node {self._fence[0]} was fenced off")

    def _forget(self, key: Key, attempt: int) -> None:
        self._ended.add((key, attempt))
        if self._mine.get(key) == attempt:
            del self._mine[key]

"""The node's right to work: its epoch, and the shards it leases.

A node writes its row in ``nodes`` and leases shards of runs for a while, renewing well before the end. When a lease
has run out, its node counts as dead: whoever takes the shard first raises the dead node's epoch, which waits for an
append of that node in flight and makes every later one fail, and only then reads the runs.
"""

import os
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

import structlog

from perdure_engine.identity import SHARDS, shard_of
from perdure_engine.task_types import TaskTypes
from perdure_engine.witness import Witness
from perdure_eventstore.errors import FenceLost, LogUnavailable
from perdure_eventstore.patience import patiently
from perdure_eventstore.session import Session

log = structlog.get_logger(__name__)


SHARDS_FREE = "shards are free"
"""What is announced when a node gives shards away."""

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_time() -> float:
    """Seconds on a clock that no one sets. Where the system has one that counts sleep, a lease runs out in it too."""
    return time.clock_gettime(_CLOCK)


class Leases:
    """One node's leases."""

    def __init__(
        self,
        session: Session,
        node: UUID,
        types: TaskTypes,
        concurrency: int,
        schema: str,
        seconds: float,
        grace: float | None = None,
    ) -> None:
        """``seconds`` is how long a lease lasts; it is renewed three times in that.

        ``grace`` is how long the database must have been in reach before others can be taken for dead: as long as a
        lease, unless it is given.
        """
        self._tokens: dict[int, int] = {}
        self.load: Callable[[], int] = lambda: 0
        """How many attempts of its own runs this node executes or has waiting; others are told at each renewal."""
        self.surplus = 0
        """How many shards more than a fair share there were at the last renewal."""
        self.epoch = 1
        self._session = session
        self._node = node
        self._types, self._concurrency = types, concurrency
        self._announced: tuple[list[str], list[str]] = ([], [])
        self._leaving: set[int] = set()
        self.unknown: set[int] = set()
        """Shards that were leased, and of which it is not known yet what other nodes execute."""
        self._seconds = seconds
        self._length = timedelta(seconds=seconds)
        self._until = 0.0
        self._grace = timedelta(seconds=seconds if grace is None else grace)
        self._witness = Witness(seconds, self._grace.total_seconds())
        nodes, shards = f'"{schema}".nodes', f'"{schema}".shards'
        self._join = f"""insert into {nodes} (node, epoch, name, task_types, at_most_once, concurrency, alive_until)
            values (%s, %s, %s, %s, %s, %s, clock_timestamp() + %s)"""
        # For update first: it waits for an append in flight, which a change of the epoch alone would not.
        self._fence = f"""with dead as (select node from {nodes} where node <> %s and node in
                (select node from {shards} where lease_until < clock_timestamp())
                and (%s or pg_last_xact_replay_timestamp() is null
                     and pg_postmaster_start_time() < clock_timestamp() - %s)
                order by node for update)
            update {nodes} n set epoch = n.epoch + 1 from dead where n.node = dead.node returning n.node"""
        # Even one that has run out, so long as nobody raised the epoch: an outage of Postgres is nobody's death. What
        # else a node has to know of the others comes with it: one at rest says nothing but this.
        self._renew = f"""with mine as (
                update {shards} set lease_until = clock_timestamp() + %s where node = %s
                and exists (select from {nodes} n where n.node = %s and n.epoch = %s) returning shard, token
            ), alive as (
                update {nodes} set alive_until = clock_timestamp() + %s, load = %s
                where node = %s and epoch = %s returning node
            )
            select exists (select from alive), coalesce((select array_agg(shard) from mine), '{{}}'),
                coalesce((select array_agg(token) from mine), '{{}}'),
                (select count(*) from {nodes} where node <> %s and alive_until > clock_timestamp()),
                exists (select from {shards} where node <> %s and lease_until < clock_timestamp())"""
        # Only from the fenced: one whose lease runs out just now still believes that it may write.
        self._take = f"""update {shards} s set node = %s, lease_until = clock_timestamp() + %s, token = token + 1 from
            (select shard from {shards} where node is null or lease_until < clock_timestamp()
                and (node = any(%s) or not exists (select from {nodes} n where n.node = {shards}.node))
             order by shard limit %s for update skip locked) free
            where s.shard = free.shard returning s.shard, s.token"""
        rows = f'"{schema}".assignments'
        self._hand = f"""with fence as materialized (
                select node from {nodes} where node = %s and epoch = %s for key share
            ), kept as (
                insert into {rows} (run, task_id, attempt, shard, node, token, digest, scheduled, failures)
                select r.run, r.task_id, r.attempt, r.shard, r.node, r.token, r.digest, r.scheduled, r.failures
                from fence, json_populate_recordset(null::{rows}, %s::json) r
                on conflict (run, task_id) do update set attempt = excluded.attempt, node = excluded.node,
                    token = excluded.token, digest = excluded.digest, scheduled = excluded.scheduled,
                    failures = excluded.failures, cancelled = false, id = default
            ), given as (
                update {shards} s set node = null, lease_until = '-infinity' from fence
                where s.node = fence.node and s.shard = any(%s)
            )
            select (select count(*) from fence), pg_notify('{schema}', '{SHARDS_FREE}')"""
        # Together: whoever hears of it counts the nodes to know its share.
        self._release = f"""with given as (
                update {shards} set node = null, lease_until = '-infinity' where node = %s and shard = any(%s)
            ), gone as (
                delete from {nodes} where node = %s
            )
            select pg_notify('{schema}', '{SHARDS_FREE}')"""
        self._announce = f"update {nodes} set task_types = %s, at_most_once = %s where node = %s"
        self._sweep = f"""delete from {nodes} n where n.alive_until < clock_timestamp() - interval '1 day'
            and not exists (select from {shards} s where s.node = n.node)"""

    @property
    def shards(self) -> frozenset[int]:
        """Those it may work on now."""
        return frozenset(self._tokens.keys() - self._leaving)

    @property
    def known(self) -> frozenset[int]:
        """Those whose runs may be loaded: what of them is under way elsewhere is known."""
        return self.shards - self.unknown

    def fencing_token(self, run: UUID) -> int:
        """A number that grows each time the run's shard changes hands."""
        return self._tokens.get(shard_of(run), 0)

    @property
    def is_valid(self) -> bool:
        """Whether the last renewal still counts, reckoned from before it was sent."""
        return boot_time() < self._until

    @property
    def may_judge(self) -> bool:
        """Whether the database has been in reach for so long that another node's silence means its death."""
        return self._witness.may_judge(boot_time())

    @property
    def renewal_interval(self) -> float:
        """Seconds between renewals."""
        return self._seconds / 3

    def _known_types(self) -> tuple[list[str], list[str]]:
        once = [name for name, type_ in self._types.items() if type_.delivery == "at_most_once"]
        return self._types.names(), once

    async def join(self) -> None:
        """Write the node's row."""
        name = f"{socket.gethostname()}:{os.getpid()}"
        self._announced = self._known_types()
        await self._session.fetch(
            self._join, (self._node, self.epoch, name, *self._announced, self._concurrency, self._length)
        )  # fmt: skip
        await self._session.fetch(self._sweep)

    async def renew(self) -> frozenset[int]:
        """Renew, take what is free up to a fair share, and return the shards that are new.

        Once it holds any, it tries until the database can be reached, more often than others would: the sooner it is
        back after an outage, the surer it is not to be taken for dead. Raises FenceLost if shards this node worked on
        are no longer its own; LogUnavailable.
        """
        if not self._tokens:
            return await self._renew_once()
        return await patiently(self._renew_once, most=self._seconds / 8)

    async def _renew_once(self) -> frozenset[int]:
        sent = boot_time()
        try:
            if self._announced != (known := self._known_types()):
                await self._session.fetch(self._announce, (*known, self._node))
                self._announced = known
            node, length = self._node, self._length
            asked = length, node, node, self.epoch, length, self.load(), node, self.epoch, node, node
            is_alive, shards, tokens, others, has_expired = (await self._session.fetch(self._renew, asked))[0]
        except LogUnavailable:
            self._witness.missed()
            raise
        if self._witness.reached(sent):
            log.info("the database was out of reach, the other nodes get time to come back", seconds=self._seconds)
        if not is_alive:
            raise FenceLost(f"node {node} was taken for dead")
        mine = dict(zip(shards, tokens, strict=True))
        if not self._tokens.keys() <= mine.keys():
            raise FenceLost(f"the lease of node {self._node} ran out")
        share = -(-SHARDS // (others + 1))
        fenced = await self._declare_dead(sent) if has_expired else []
        if len(mine) < share:
            mine |= dict(await self._session.fetch(self._take, (self._node, self._length, fenced, share - len(mine))))
        # Those taken by a statement whose answer was lost are new as well.
        new = mine.keys() - self._tokens.keys()
        self._until = sent + self._seconds
        self._tokens = mine
        self.unknown |= new
        self.surplus = len(mine) - share
        return frozenset(new)

    async def _declare_dead(self, now: float) -> list[UUID]:
        """The nodes whose leases have run out, and that can write no more from here on."""
        may_judge = self._witness.may_judge(now)
        if not (may_judge or self._witness.is_newcomer):
            return []
        rows = await self._session.fetch(self._fence, (self._node, may_judge, self._grace))
        return [node for (node,) in rows]

    @contextmanager
    def leaving(self, shards: Collection[int]) -> Iterator[None]:
        """Meanwhile nothing new is begun in ``shards``, which are to be given away."""
        self._leaving |= set(shards)
        try:
            yield
        finally:
            self._leaving -= set(shards)

    async def give(self, shards: Collection[int], attempts: bytes = b"[]") -> None:
        """Leave ``shards`` to other nodes.

        Nothing of them may be under way but ``attempts``, rows of ``assignments`` as JSON. Raises FenceLost.
        """
        kept = await self._session.fetch(self._hand, (self._node, self.epoch, attempts.decode(), list(shards)))
        if kept[0][0] == 0:
            raise FenceLost(f"node {self._node} was fenced off")
        for shard in shards:
            self._tokens.pop(shard, None)

    async def release(self) -> None:
        """Give everything back at once, for a clean stop."""
        await self._session.fetch(self._release, (self._node, sorted(self._tokens), self._node))
        self._tokens, self._until = {}, 0.0

"""Attempts that other nodes execute for the runs of this one: who can, who does, and what becomes of them.

A task goes to its run's owner if that has its type and a free slot. Else the owner records its start on a live node
that has both, with a row in ``assignments``; that node executes it and leaves what came of it in the run's inbox, in
the transaction that deletes the row. Whoever deletes the row first has decided: an owner that takes an attempt back
finds either the row or the result.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

import structlog

from perdure_engine.identity import shard_of
from perdure_engine.run.commands import BeginAttempt
from perdure_engine.waits import Wait
from perdure_eventstore.session import Session

log = structlog.get_logger(__name__)

_FRESH = 1.0
"""Seconds for which what is known of the other nodes counts."""


class Away(NamedTuple):
    """An attempt that another node executes; with no node, what came of it is on its way."""

    node: UUID | None
    attempt: int


class Attempted(NamedTuple):
    """An attempt of a task."""

    run: UUID
    task_id: str
    attempt: int


class _Peer:
    """Another live node."""

    def __init__(self, types: Sequence[str], at_most_once: Sequence[str], room: int) -> None:
        self.types, self.at_most_once, self.room = frozenset(types), frozenset(at_most_once), room


class Choice(NamedTuple):
    """The node that is to execute a task, and how it delivers tasks of its type."""

    node: UUID
    at_most_once: bool


class Dispatch:
    """The owner's side. Every wait is in memory: who takes over finds the tasks scheduled, and the rows."""

    def __init__(
        self,
        session: Session,
        fence: tuple[UUID, int],
        schema: str,
        wake: Callable[[], None],
    ) -> None:
        """``fence`` is this node and its epoch; ``wake`` is called when it is worth a ``look``."""
        self._session, self._own_fence, self._wake = session, fence, wake
        self._node = fence[0]
        self.begin: Callable[[Wait, Choice], None]
        """Called for who waited, with a node."""
        self.wants: Callable[[Wait], bool] = lambda wait: True
        """Says whether it still waits."""
        self.spread: Callable[[], None]
        """Called when other nodes may have room for what waits for a slot of this one."""
        self.is_full: Callable[[], bool]
        """Says whether anything waits for a slot of this node."""
        self.away: dict[tuple[UUID, str], Away] = {}
        self._peers: dict[UUID, _Peer] = {}
        self._on_the_way: Counter[UUID] = Counter()
        """Of each node, the attempts that were given room there and are not on the disk yet."""
        self._looked = -_FRESH
        self._waiting: dict[str, deque[Wait]] = {}
        self._warned: set[str] = set()
        nodes, rows = f'"{schema}".nodes', f'"{schema}".assignments'
        self._look = f"""select n.node, n.task_types, n.at_most_once,
                n.concurrency - n.load - (select count(*) from {rows} a
                    where a.node = n.node and a.shard <> all(%s::smallint[]))::integer
            from {nodes} n where n.node <> %s and n.alive_until > clock_timestamp()"""
        # What came of an attempt takes the place of its row: one look at both.
        self._rows = f"""select run, task_id, node, attempt from {rows} where shard = any(%s)
            union all
            select run, detail ->> 'task_id', null, (detail ->> 'attempt')::integer from "{schema}".inbox
            where shard = any(%s) and kind = 'attempt'"""
        self._answered = f"""select run, detail ->> 'task_id', (detail ->> 'attempt')::integer from "{schema}".inbox
            where shard = any(%s) and run = any(%s) and kind = 'attempt'"""
        # For update first: it waits for what the dead node still commits.
        self._fence = f"""with dead as (select node from {nodes} where node = any(%s)
                and alive_until < clock_timestamp() order by node for update)
            update {nodes} n set epoch = n.epoch + 1 from dead where n.node = dead.node"""
        self._there = f"select node from {nodes} where node = any(%s) and alive_until > clock_timestamp()"
        self._revoke = f"""with u as materialized (
                select * from unnest(%s::uuid[], %s::text[], %s::integer[]) u(run, task_id, attempt))
            delete from {rows} r using u
            where r.run = any(array(select u.run from u))
                and r.run = u.run and r.task_id = u.task_id and r.attempt = u.attempt
                and exists (select from {nodes} n where n.node = %s and n.epoch = %s)"""
        self._cancel = f"""with told as (update {rows} set cancelled = true where run = %s returning node)
            select pg_notify('{schema}', '') from told limit 1"""

    @property
    def has_work(self) -> bool:
        """Whether somebody waits for a node or a slot, or a node for whom there is something to do may be lost."""
        return bool(self._waiting or self.away or self.is_full())

    def take(self, wait: Wait, type_: str) -> Choice | None:
        """A node with room for a task of this type; or queue, and it begins when there is one."""
        if self._is_fresh and type_ not in self._waiting and (choice := self.choose(type_)) is not None:
            return choice
        self._waiting.setdefault(type_, deque()).append(wait)
        self._wake()
        return None

    def overflow(self) -> None:
        """Something waits for a slot of this node: see whether others have room."""
        if self._is_fresh:
            if any(peer.room > 0 for peer in self._peers.values()):
                # Not at once: a run that is being decided cannot be told anything.
                asyncio.get_running_loop().call_soon(self.spread)
        else:
            self._wake()

    def give_back(self, begun: Iterable[BeginAttempt]) -> None:
        """These do not begin."""
        for begin in begun:
            self._on_the_way[begin.node] -= 1
            self._has_room(begin.node)

    def sent(self, run: UUID, task_id: str, node: UUID, attempt: int) -> None:
        """The attempt is on the disk as another node's."""
        self.away[run, task_id] = Away(node, attempt)
        self._on_the_way[node] -= 1

    def ended(self, run: UUID, task_id: str, attempt: int) -> None:
        """What came of it is known."""
        away = self.away.get((run, task_id))
        if away is not None and away.attempt == attempt:
            del self.away[run, task_id]
            self._has_room(away.node)
            self._pump()

    def away_of(self, run: UUID) -> list[tuple[str, int]]:
        """The tasks of ``run`` that other nodes execute, each with its attempt."""
        return [(task_id, away.attempt) for (each, task_id), away in self.away.items() if each == run]

    def forget(self, whether: Callable[[UUID], bool]) -> None:
        """Forget the runs of which ``whether`` is true: they are another node's."""
        self.away = {key: away for key, away in self.away.items() if not whether(key[0])}
        for type_, waiting in list(self._waiting.items()):
            self._waiting[type_] = deque(each for each in waiting if not whether(each.run.run_id))

    def not_needed(self, types: Iterable[str]) -> list[Wait]:
        """Who waited for other nodes with one of ``types``, which this node has itself now."""
        return [each for type_ in types for each in self._waiting.pop(type_, ())]

    async def adopt(self, shards: Sequence[int]) -> None:
        """Learn what is under way elsewhere of shards that were taken over."""
        for run, task_id, node, attempt in await self._session.fetch(self._rows, (list(shards), list(shards))):
            self.away[run, task_id] = Away(node, attempt)

    async def look(self, shards: Collection[int]) -> None:
        """Learn which nodes live and have room, and begin what waited for one. ``shards`` are this node's.

        What they have for others is known here: a row may be gone of which the result is not taken in yet.
        """
        rows = await self._session.fetch(self._look, (list(shards), self._node))
        mine = self._on_the_way + Counter(away.node for away in self.away.values() if away.node is not None)
        self._looked = asyncio.get_running_loop().time()
        self._peers = {node: _Peer(types, once, room - mine[node]) for node, types, once, room in rows}
        self._waiting = {
            type_: left for type_, waiting in self._waiting.items() if (left := deque(filter(self.wants, waiting)))
        }
        self._pump()
        for type_ in self._waiting.keys() - self._warned:
            if not any(type_ in peer.types for peer in self._peers.values()):
                self._warned.add(type_)
                log.warning("no live node has a handler for a task that is scheduled", type=type_)

    async def lost(self) -> set[UUID]:
        """The nodes that died with something to execute for this one; from now on they can record nothing."""
        nodes = {away.node for away in self.away.values() if away.node is not None}
        if not nodes:
            return set()
        live = {row[0] for row in await self._session.fetch(self._there, (list(nodes),))}
        if dead := nodes - live:
            await self._session.fetch(self._fence, (list(dead),))
        return dead

    def lost_with(self, nodes: Collection[UUID]) -> list[Attempted]:
        """What ``nodes`` were to execute."""
        return [Attempted(*key, away.attempt) for key, away in self.away.items() if away.node in nodes]

    async def cancel_run(self, run: UUID) -> None:
        """Ask for the end of whatever other nodes execute of ``run``."""
        await self._session.fetch(self._cancel, (run,))

    async def revoke(self, attempts: Collection[Attempted]) -> list[Attempted]:
        """Take attempts back: those of which nothing came, or comes any more. May be repeated."""
        columns = tuple(map(list, zip(*attempts, strict=True))) or ([], [], [])
        await self._session.fetch(self._revoke, (*columns, *self._own_fence))
        runs = {attempt.run for attempt in attempts}
        shards = {shard_of(run) for run in runs}
        answered = set(await self._session.fetch(self._answered, (list(shards), list(runs))))
        return [attempt for attempt in attempts if attempt not in answered]

    @property
    def _is_fresh(self) -> bool:
        return asyncio.get_running_loop().time() < self._looked + _FRESH

    def choose(self, type_: str) -> Choice | None:
        """The live node with most room, if one has the type and room; the room is taken."""
        able = [(peer.room, node) for node, peer in self._peers.items() if type_ in peer.types and peer.room > 0]
        if not able:
            return None
        node = max(able)[1]
        self._peers[node].room -= 1
        self._on_the_way[node] += 1
        return Choice(node, type_ in self._peers[node].at_most_once)

    def _has_room(self, node: UUID | None) -> None:
        if node is not None and (peer := self._peers.get(node)) is not None:
            peer.room += 1

    def _pump(self) -> None:
        for type_ in list(self._waiting):
            waiting = self._waiting[type_]
            while waiting and (choice := self.choose(type_)) is not None:
                self.begin(waiting.popleft(), choice)
            if not waiting:
                self._waiting.pop(type_, None)
        self.spread()

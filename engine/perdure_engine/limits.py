"""Limits that hold across nodes, for whom they are asked in Postgres: attempts of a key at once, starts in a time."""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from perdure_engine.bound import Bound
from perdure_engine.definitions.durations import parse_duration
from perdure_engine.identity import shard_of
from perdure_engine.run.events import RUN_ENDED
from perdure_eventstore.session import Session

_BATCH = 500
_KEYS = 10_000
"""Whose bounds are remembered."""
_RATE = re.compile(r"\s*([1-9]\d{0,8})\s*/\s*(\S+)\s*")


class Rate(NamedTuple):
    """At most ``most`` in any time as long as ``period`` seconds."""

    most: int
    period: float


def parse_rate(text: object) -> Rate:
    """A rate such as ``10/s``, ``100/m`` or ``5/30s``. Raises ValueError, with a sentence."""
    if isinstance(text, str) and (match := _RATE.fullmatch(text)):
        period = match[2] if match[2][0].isdigit() else f"1{match[2]}"
        try:
            return Rate(int(match[1]), parse_duration(period))
        except ValueError:
            pass
    raise ValueError(f'a rate is written like "10/s", "100/m", "1000/h" or "5/30s", not {text!r:.60}')


def is_left_over(schema: str) -> str:
    """Of a permit ``p``, in SQL: its run has ended. One that is only just starting may have its permit already."""
    over = ", ".join(f"'{kind.__name__}'" for kind in RUN_ENDED)
    return f"""not exists (select from "{schema}".open_runs o where o.run = p.run)
        and (exists (select from "{schema}".events e where e.stream = p.run and e.type in ({over}))
            or exists (select from "{schema}".archived a where a.stream = p.run))"""


class _Asked(NamedTuple):
    """A task that waits for a permit of its key."""

    key: str
    limit: int
    run: UUID
    task_id: str
    granted: Callable[[], None]
    wanted: Callable[[], bool]


class Permits:
    """Who may begin of those that share a key. A permit goes back in the append that ends the attempt."""

    def __init__(self, session: Session, fence: tuple[UUID, int], schema: str) -> None:
        self._session, self._fence = session, fence
        self._waiting: dict[str, deque[_Asked]] = {}
        """By key: one whose permits are all taken holds up no other."""
        self._bounds: dict[str, Bound[int]] = {}
        """By key, from where on its permits are counted; on the connection that was opened as ``_opened``-th."""
        self._opened = 0
        self._unused: list[tuple[UUID, str]] = []
        self.wake = asyncio.Event()
        self._take = f'select * from "{schema}".take_permits(%s, %s, %s, %s, %s, %s, %s)'
        # Of a shard that was handed over the next owner decides, who may have begun by now.
        self._give_back = f"""with u as materialized (
                select * from unnest(%s::uuid[], %s::text[], %s::smallint[]) u(run, task_id, shard))
            delete from "{schema}".permits p using u
            where p.run = any(array(select u.run from u)) and p.run = u.run and p.task_id = u.task_id
                and exists (select from "{schema}".shards s join "{schema}".nodes n using (node)
                            where s.shard = u.shard and n.node = %s and n.epoch = %s)"""
        self._sweep = f'delete from "{schema}".permits p where {is_left_over(schema)} returning p.run'

    def ask(
        self, key: str, limit: int, run: UUID, task_id: str, granted: Callable[[], None], wanted: Callable[[], bool]
    ) -> None:
        """Have ``granted`` called when the task may begin, if it is ``wanted`` when it is asked for."""
        self._waiting.setdefault(key, deque()).append(_Asked(key, limit, run, task_id, granted, wanted))
        self.wake.set()

    def give_back(self, run: UUID, task_id: str) -> None:
        """The task does not begin after all."""
        self._unused.append((run, task_id))
        self.wake.set()

    def forget(self, whether: Callable[[UUID], bool]) -> None:
        """The runs of which ``whether`` is true are another node's, and their permits that node's to give back."""
        self._keep(lambda asked: not whether(asked.run))
        self._unused[:] = [unused for unused in self._unused if not whether(unused[0])]

    async def grant(self) -> None:
        """Ask for the first of each key, as many as its limit lets begin."""
        if self._unused:
            unused, self._unused = self._unused, []
            try:
                given = [*zip(*((run, task, shard_of(run)) for run, task in unused), strict=True)]
                await self._session.fetch(self._give_back, (*map(list, given), *self._fence))
            except BaseException:
                self._unused[:0] = unused
                raise
        asking = self._first()
        if not asking:
            return
        granted = [asked for asked, may_begin in zip(asking, await self._ask_for(asking), strict=True) if may_begin]
        taken = {id(asked) for asked in granted}
        # Who was forgotten meanwhile has a permit that its new owner finds, or ``sweep``.
        still = {id(asked) for waiting in self._waiting.values() for asked in waiting}
        self._keep(lambda asked: id(asked) not in taken)
        for asked in granted:
            if id(asked) in still:
                asked.granted()
        if granted and len(asking) >= _BATCH:
            # The others are first the next time, which is at once.
            self.wake.set()

    async def sweep(self) -> int:
        """Delete permits that outlived their runs: of nodes that died before they gave them back; how many."""
        return len(await self._session.fetch(self._sweep))

    async def _ask_for(self, asking: Sequence[_Asked]) -> list[bool]:
        """Whether each may begin."""
        await self._session.connection()
        if self._opened != self._session.opened:
            # A standby that has taken over may count from a lower number.
            self._bounds, self._opened = {}, self._session.opened
        elif len(self._bounds) > _KEYS:
            self._bounds = {key: bound for key, bound in self._bounds.items() if key in self._waiting}
        bounds = {asked.key: self._bounds.setdefault(asked.key, Bound(0)) for asked in asking}
        above = {key: bound.above() for key, bound in bounds.items()}
        columns = zip(*((*asked[:4], above[asked.key]) for asked in asking), strict=True)
        may_begin = [False] * len(asking)
        for number, granted, first in await self._session.fetch(self._take, (*self._fence, *map(list, columns))):
            may_begin[number - 1] = granted
            bounds[asking[number - 1].key].exhausted()
            if first is not None:
                bounds[asking[number - 1].key].seen(first - 1)
        return may_begin

    def _first(self) -> list[_Asked]:
        asking: list[_Asked] = []
        for key in list(self._waiting):
            if len(asking) >= _BATCH:
                break
            waiting = self._waiting.pop(key)
            mine: list[_Asked] = []
            while waiting and len(mine) < min(waiting[0].limit, _BATCH):
                if (asked := waiting.popleft()).wanted():
                    mine.append(asked)
            waiting.extendleft(reversed(mine))
            if waiting:
                self._waiting[key] = waiting
            asking += mine
        return asking

    def _keep(self, whether: Callable[[_Asked], bool]) -> None:
        kept = {key: deque(filter(whether, waiting)) for key, waiting in self._waiting.items()}
        self._waiting = {key: waiting for key, waiting in kept.items() if waiting}


class _Slotted(NamedTuple):
    """Who has a slot, and waits for the leave of its rate."""

    run: UUID | None
    begin: Callable[[], None]
    free: Callable[[], None]
    """Returns its slot."""
    find_slot: Callable[[], None]


class Rates:
    """Who may begin of types that have a rate.

    Leave is asked for with a slot at hand: one that waited for a slot with its leave would begin at a time that nobody
    counts. Where there is no more leave, a type is closed, and who waits for it waits without a slot.
    """

    def __init__(self, session: Session, schema: str) -> None:
        self._session = session
        self._asking: dict[str, deque[_Slotted]] = {}
        self._postponed: dict[str, deque[tuple[UUID | None, Callable[[], None]]]] = {}
        self._rates: dict[str, Rate] = {}
        self._closed: set[str] = set()
        self.wake = asyncio.Event()
        self._take = f'select * from "{schema}".take_rate(%s, %s, %s, %s)'

    def is_closed(self, type_: str) -> bool:
        """Whether there is no leave for the type for the time being."""
        return type_ in self._closed

    def has_queue(self, type_: str) -> bool:
        """Whether others wait for leave already, or would have to."""
        return type_ in self._closed or type_ in self._postponed

    def postpone(self, type_: str, rate: Rate, run: UUID | None, find_slot: Callable[[], None]) -> None:
        """Have ``find_slot`` called when there may be leave again; ``run`` is its run, if that is held here."""
        self._rates[type_] = rate
        self._postponed.setdefault(type_, deque()).append((run, find_slot))
        if type_ not in self._closed:
            self.wake.set()

    def ask(
        self,
        type_: str,
        rate: Rate,
        run: UUID | None,
        begin: Callable[[], None],
        free: Callable[[], None],
        find_slot: Callable[[], None],
    ) -> None:
        """Have ``begin`` called with the leave of the type's rate; or ``free``, and ``find_slot`` when there may be."""
        self._rates[type_] = rate
        self._asking.setdefault(type_, deque()).append(_Slotted(run, begin, free, find_slot))
        self.wake.set()

    def forget(self, whether: Callable[[UUID], bool]) -> None:
        """The runs of which ``whether`` is true are another node's."""
        for type_, postponed in self._postponed.items():
            self._postponed[type_] = deque(each for each in postponed if each[0] is None or not whether(each[0]))
        gone = list[_Slotted]()
        for type_, asking in self._asking.items():
            gone += (each for each in asking if each.run is not None and whether(each.run))
            self._asking[type_] = deque(each for each in asking if each.run is None or not whether(each.run))
        for each in gone:
            each.free()

    async def grant(self) -> None:
        """Ask for everybody who has a slot, in their order."""
        for type_ in list(self._asking):
            rate = self._rates[type_]
            wanted = min(len(self._asking[type_]), rate.most)
            granted, wait = (await self._session.fetch(self._take, (type_, rate.most, rate.period, wanted)))[0]
            # Some may have been forgotten meanwhile, and others have come.
            asking = self._asking[type_]
            begun = [asking.popleft() for _ in range(min(granted, len(asking)))]
            if granted < wanted:
                self._close(type_, wait)
            elif asking:
                self.wake.set()
            else:
                del self._asking[type_]
            for each in begun:
                each.begin()
        for type_ in list(self._postponed):
            self._let_in(type_)

    def _close(self, type_: str, wait: float) -> None:
        self._closed.add(type_)
        asyncio.get_running_loop().call_later(wait, self._reopen, type_)
        denied = self._asking.pop(type_)
        self._postponed.setdefault(type_, deque()).extendleft((each.run, each.find_slot) for each in reversed(denied))
        for each in denied:
            each.free()

    def _reopen(self, type_: str) -> None:
        self._closed.discard(type_)
        self.wake.set()

    def _let_in(self, type_: str) -> None:
        """Have as many look for a slot as could get leave at once."""
        if self.is_closed(type_):
            return
        postponed = self._postponed[type_]
        for _ in range(min(self._rates[type_].most, len(postponed))):
            postponed.popleft()[1]()
        if not postponed:
            self._postponed.pop(type_, None)

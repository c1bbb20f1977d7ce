"""Limits that hold across nodes, for whom they are asked in Postgres: attempts of a key at once, starts in a time."""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from perdure_engine.bound import Bound
from perdure_engine.definitions.durations import parse_duration
from perdure_eventstore.errors import LogError
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


class _Asked(NamedTuple):
    key: str
    limit: int
    run: UUID
    task_id: str
    granted: Callable[[], None]


class Permits:
    """Who may begin of those that share a key. A permit goes back in the append that ends the attempt."""

    def __init__(self, session: Session, fence: tuple[UUID, int], schema: str) -> None:
        self._session, self._fence = session, fence
        self._waiting: dict[str, deque[_Asked]] = {}
        """By key: one whose permits are all taken holds up no other."""
        self._bounds: dict[str, Bound[int]] = {}
        """By key, from where on its permits are counted."""
        self._unused: list[tuple[UUID, str]] = []
        self.wake = asyncio.Event()
        self._take = f'select * from "{schema}".take_permits(%s, %s, %s, %s, %s, %s, %s)'
        self._give_back = f"""with u as materialized (select * from unnest(%s::uuid[], %s::text[]) u(run, task_id))
            delete from "{schema}".permits p using u
            where p.run = any(array(select u.run from u)) and p.run = u.run and p.task_id = u.task_id
                and exists (select from "{schema}".nodes n where n.node = %s and n.epoch = %s)"""

    def ask(self, key: str, limit: int, run: UUID, task_id: str, granted: Callable[[], None]) -> None:
        """Have ``granted`` called when the task may begin."""
        self._waiting.setdefault(key, deque()).append(_Asked(key, limit, run, task_id, granted))
        self.wake.set()

    def give_back(self, run: UUID, task_id: str) -> None:
        """The task does not begin after all."""
        self._unused.append((run, task_id))
        self.wake.set()

    def forget(self, whether: Callable[[UUID], bool]) -> None:
        """The runs of which ``whether`` is true are another node's."""
        self._keep(lambda asked: not whether(asked.run))

    async def grant(self) -> None:
        """Ask for the first of each key, as many as its limit lets begin."""
        if self._unused:
            unused = self._unused[:]
            given = [run for run, _ in unused], [task for _, task in unused]
            await self._session.fetch(self._give_back, (*given, *self._fence))
            del self._unused[: len(unused)]
        asking = self._first()
        if not asking:
            return
        granted = [asked for asked, may_begin in zip(asking, await self._ask_for(asking), strict=True) if may_begin]
        taken = {id(asked) for asked in granted}
        # Who was forgotten meanwhile has a permit that its new owner finds.
        still = {id(asked) for waiting in self._waiting.values() for asked in waiting}
        self._keep(lambda asked: id(asked) not in taken)
        for asked in granted:
            if id(asked) in still:
                asked.granted()

    async def _ask_for(self, asking: Sequence[_Asked]) -> list[bool]:
        """Whether each may begin."""
        if len(self._bounds) > _KEYS:
            self._bounds = {key: bound for key, bound in self._bounds.items() if key in self._waiting}
        bounds = {asked.key: self._bounds.setdefault(asked.key, Bound(0)) for asked in asking}
        above = {key: bound.above() for key, bound in bounds.items()}
        columns = zip(*((*asked[:4], above[asked.key]) for asked in asking), strict=True)
        try:
            rows = await self._session.fetch(self._take, (*self._fence, *map(list, columns)))
        except LogError:
            # A standby that has taken over may count from a lower number.
            self._bounds.clear()
            raise
        may_begin = [False] * len(asking)
        for asker, granted, first in rows:
            may_begin[asker - 1] = granted
            bounds[asking[asker - 1].key].exhausted()
            if first is not None:
                bounds[asking[asker - 1].key].seen(first - 1)
        return may_begin

    def _first(self) -> list[_Asked]:
        asking: list[_Asked] = []
        for key in list(self._waiting):
            if len(asking) >= _BATCH:
                # The others are first the next time, which is at once.
                self.wake.set()
                break
            waiting = self._waiting[key] = self._waiting.pop(key)
            asking += islice(waiting, min(waiting[0].limit, _BATCH))
        return asking

    def _keep(self, whether: Callable[[_Asked], bool]) -> None:
        kept = {key: deque(filter(whether, waiting)) for key, waiting in self._waiting.items()}
        self._waiting = {key: waiting for key, waiting in kept.items() if waiting}


class Rates:
    """Who may begin of types that have a rate."""

    def __init__(self, session: Session, schema: str) -> None:
        self._session = session
        self._waiting: dict[str, deque[tuple[UUID | None, Callable[[], None]]]] = {}
        self._rates: dict[str, Rate] = {}
        self.wake = asyncio.Event()
        self._take = f'select * from "{schema}".take_rate(%s, %s, %s, %s)'

    def ask(self, type_: str, rate: Rate, run: UUID | None, granted: Callable[[], None]) -> None:
        """Have ``granted`` called when an attempt of the type may begin; ``run`` is its run, if that is held here."""
        self._rates[type_] = rate
        self._waiting.setdefault(type_, deque()).append((run, granted))
        self.wake.set()

    def forget(self, whether: Callable[[UUID], bool]) -> None:
        """The runs of which ``whether`` is true are another node's."""
        for type_, waiting in self._waiting.items():
            self._waiting[type_] = deque(each for each in waiting if each[0] is None or not whether(each[0]))

    async def grant(self) -> None:
        """Ask for everybody who waits, in their order."""
        soonest = None
        for type_ in list(self._waiting):
            rate = self._rates[type_]
            wanted = min(len(self._waiting[type_]), rate.most)
            granted, wait = (await self._session.fetch(self._take, (type_, rate.most, rate.period, wanted)))[0]
            # Some may have been forgotten meanwhile.
            waiting = self._waiting[type_]
            for _ in range(min(granted, len(waiting))):
                waiting.popleft()[1]()
            if not waiting:
                self._waiting.pop(type_, None)
            elif wait:
                soonest = wait if soonest is None else min(soonest, wait)
            else:
                self.wake.set()
        if soonest is not None:
            asyncio.get_running_loop().call_later(soonest, self.wake.set)

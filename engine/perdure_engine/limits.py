"""Limits that hold across nodes, for whom they are asked in Postgres: attempts of a key at once, starts in a time."""

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from perdure_engine.definitions.durations import parse_duration
from perdure_eventstore.session import Session

_BATCH = 500
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
    raise ValueError(f'a rate is written like "10/s", "100/m", "1000/h" or "5/30s", not {text!r}')


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
        self._waiting: deque[_Asked] = deque()
        self._unused: list[tuple[UUID, str]] = []
        self.wake = asyncio.Event()
        self._take = f'select "{schema}".take_permits(%s, %s, %s, %s, %s, %s)'
        self._give_back = f"""delete from "{schema}".permits p using unnest(%s::uuid[], %s::text[]) u(run, task_id)
            where p.run = u.run and p.task_id = u.task_id
                and exists (select from "{schema}".nodes n where n.node = %s and n.epoch = %s)"""

    def ask(self, key: str, limit: int, run: UUID, task_id: str, granted: Callable[[], None]) -> None:
        """Have ``granted`` called when the task may begin."""
        self._waiting.append(_Asked(key, limit, run, task_id, granted))
        self.wake.set()

    def give_back(self, run: UUID, task_id: str) -> None:
        """The task does not begin after all."""
        self._unused.append((run, task_id))
        self.wake.set()

    def forget(self, whether: Callable[[UUID], bool]) -> None:
        """The runs of which ``whether`` is true are another node's."""
        self._waiting = deque(asked for asked in self._waiting if not whether(asked.run))

    async def grant(self) -> None:
        """Ask for everybody who waits, in their order."""
        if self._unused:
            unused = self._unused[:]
            given = [run for run, _ in unused], [task for _, task in unused]
            await self._session.fetch(self._give_back, (*given, *self._fence))
            del self._unused[: len(unused)]
        asking = list(self._waiting)[:_BATCH]
        if not asking:
            return
        columns = zip(*(asked[:4] for asked in asking), strict=True)
        numbers = (await self._session.fetch(self._take, (*self._fence, *map(list, columns))))[0][0]
        granted = [asking[number - 1] for number in numbers]
        taken = {id(asked) for asked in granted}
        # Who was forgotten meanwhile has a permit that its new owner finds.
        still = {id(asked) for asked in self._waiting}
        self._waiting = deque(asked for asked in self._waiting if id(asked) not in taken)
        for asked in granted:
            if id(asked) in still:
                asked.granted()


class Rates:
    """Who may begin of types that have a rate."""

    def __init__(self, session: Session, schema: str) -> None:
        self._session = session
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        self._rates: dict[str, Rate] = {}
        self.wake = asyncio.Event()
        self._take = f'select * from "{schema}".take_rate(%s, %s, %s, %s)'

    def ask(self, type_: str, rate: Rate, granted: Callable[[], None]) -> None:
        """Have ``granted`` called when an attempt of the type may begin."""
        self._rates[type_] = rate
        self._waiting.setdefault(type_, deque()).append(granted)
        self.wake.set()

    async def grant(self) -> None:
        """Ask for everybody who waits, in their order."""
        soonest = None
        for type_ in list(self._waiting):
            waiting, rate = self._waiting[type_], self._rates[type_]
            asked = (type_, rate.most, rate.period, min(len(waiting), rate.most))
            granted, wait = (await self._session.fetch(self._take, asked))[0]
            for _ in range(granted):
                waiting.popleft()()
            if not waiting:
                self._waiting.pop(type_, None)
            elif wait:
                soonest = wait if soonest is None else min(soonest, wait)
            else:
                self.wake.set()
        if soonest is not None:
            asyncio.get_running_loop().call_later(soonest, self.wake.set)

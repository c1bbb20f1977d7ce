"""What the harness does from outside: starts, publishes, pauses, resumes and cancels, until each is acknowledged."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
from bad_days.shapes import Life

import perdure
from perdure_eventstore.errors import LogError

T = TypeVar("T")

_PAUSE = 0.2


class Errands:
    """A patient client. Ids are drawn before anything is sent, and whatever is unsure is sent again under the same."""

    def __init__(self, apps: Sequence[perdure.App], url: str, random: Random) -> None:
        """``apps`` are connected, one for each way to the server; ``url`` is the straight one."""
        self._apps, self._url, self._random = apps, url, random
        self.published: dict[UUID, Any] = {}
        """Payloads of the acknowledged, by event id."""
        self.started: list[UUID] = []
        self.acknowledged = 0
        self.patience = 0
        """How often something had to be done again."""

    async def run(self, life: Life) -> None:
        """See one run through, as its shape says."""
        payload = {"n": life.number, "pause": "0.3s", "order": f"order {life.number}"}
        match life.shape.script:
            case "publish":
                await self._publish(life, f"{life.shape.name}_began", payload)
            case "publish in a transaction":
                await self._publish_in_transaction(life, f"{life.shape.name}_began", payload)
            case "order":
                await self._publish(life, "order_placed", payload)
                await self._dawdle(2)
                again = self._random.random() < 0.3
                await self._publish(life, "order_paid", payload, times=1 + again)
            case _:
                await self._start(life, payload)
                await self._steer(life)

    async def _steer(self, life: Life) -> None:
        run = UUID(life.run)
        match life.shape.script:
            case "approve":
                await self._dawdle(3)
                await self._publish(life, "approved", {}, run)
            case "hold" | "leave paused":
                await self._command(run, "pause")
                life.held = True
                await self._publish(life, "approved", {}, run)
                if life.shape.script == "hold":
                    await self._dawdle(3)
                    await self._command(run, "resume")
            case "pause":
                for _ in range(self._random.randint(1, 3)):
                    await self._dawdle(1)
                    await self._command(run, "pause")
                    await self._dawdle(2)
                    await self._command(run, "resume")
            case "announce":
                await self._dawdle(3)
                await self._publish(life, "announced", {"n": life.number})
            case "cancel" | "cancel somewhen":
                await self._dawdle(2)
                life.cancelled = True
                await self._command(run, "cancel")

    async def _start(self, life: Life, payload: Any) -> None:
        life.run = str(run := uuid4())
        await self._insist(lambda app: app.start(life.shape.name, payload, run_id=run))
        self.started.append(run)

    async def _publish(
        self, life: Life, name: str, payload: Any, run: UUID | None = None, times: int = 1
    ) -> None:  # fmt: skip
        event = uuid4()
        if not life.run and not life.event:
            life.event = str(event)
        key = payload["order"] if life.shape.script == "order" else None
        for _ in range(times):
            await self._insist(lambda app: app.publish(name, payload, key=key, event_id=event, run=run))
            self.published[event] = payload
        life.events.append(str(event))

    async def _publish_in_transaction(self, life: Life, name: str, payload: Any) -> None:
        """In a transaction of one's own; one whose end is not known is followed by an ordinary publish."""
        event = uuid4()
        life.event = str(event)
        try:
            async with await psycopg.AsyncConnection.connect(self._url) as connection:
                await self._apps[0].publish(name, payload, event_id=event, connection=connection)
                await self._dawdle(0.5)
        except (psycopg.Error, LogError, OSError):
            self.patience += 1
            await self._insist(lambda app: app.publish(name, payload, event_id=event))
        self.published[event] = payload
        self.acknowledged += 1

    async def _command(self, run: UUID, name: str) -> None:
        await self._insist(lambda app: getattr(app, name)(run, "as the harness likes"))

    async def _insist(self, work: Callable[[perdure.App], Awaitable[T]]) -> T:
        while True:
            with suppress(LogError):
                answer = await work(self._random.choice(self._apps))
                self.acknowledged += 1
                return answer
            self.patience += 1
            await asyncio.sleep(_PAUSE)

    async def _dawdle(self, most: float) -> None:
        await asyncio.sleep(self._random.uniform(0, most))

"""A node with a hard life: its handlers hang, raise, exhaust memory, return the impossible and kill it."""

import asyncio
import math
import os
import resource
import signal
import time
from collections.abc import Sequence
from random import Random
from typing import Any
from uuid import uuid4

import structlog
from bad_days.moved_clock import MovedClock
from bad_days.notes import Notes
from bad_days.shapes import TYPES
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

import perdure
from perdure_eventstore.errors import LogError

LEASE = 2.0
_ROOM = 2 << 30
"""Bytes of address space that a node may have besides what it begins with."""
_CHUNK = 64 << 20
_MOVES = (0.4, 4.0, 20.0, 3600.0, 90_000.0)


async def live(url: str, notes: str, seed: int, lacking: Sequence[str], rate: str) -> None:
    """Work until SIGTERM, then stop cleanly. SIGUSR1 sets this process's clock."""
    stopping, random, clock = asyncio.Event(), Random(seed), MovedClock()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)

    def move() -> None:
        clock.seconds = random.choice(_MOVES) * random.choice([-1, 1])
        print(f"the clock was set by {clock.seconds:+g} s", flush=True)

    loop.add_signal_handler(signal.SIGUSR1, move)
    _limit_memory()
    structlog.configure(processors=[
        structlog.processors.add_log_level, structlog.processors.TimeStamper("%H:%M:%S.%f"),
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ])  # fmt: skip
    app = application(url, Notes(notes), random, lacking, rate)
    while not stopping.is_set():
        try:
            async with app.node(views=False):
                await stopping.wait()
        except LogError as error:
            print(f"the node cannot begin, or end as it should: {error}", flush=True)
            await asyncio.sleep(0.2)


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _ROOM, now + _ROOM))


class Unspeakable(Exception):
    """One that cannot even be told."""

    def __str__(self) -> str:
        raise RuntimeError("no words for it")


def _raise(number: int) -> None:
    match number % 4:
        case 0:
            raise RuntimeError("as it was told to")
        case 1:
            raise SystemExit(3)
        case 2:
            raise Unspeakable
        case _:
            raise UnicodeError("\ud800 and \0 in a message")


def application(url: str, notes: Notes, random: Random, lacking: Sequence[str], rate: str) -> perdure.App:
    """Every type of ``TYPES`` but those ``lacking``."""
    settings = perdure.Settings(lease=LEASE, poll=0.3, concurrency=12, stop=4.0, snapshot_every=20)
    app, handlers = perdure.App(url, settings=settings), Handlers(notes, random)
    options: dict[str, dict[str, Any]] = {"craft": {"rate": rate}, "book": {"limit": 6}}
    for name in TYPES:
        if name not in lacking:
            app.task(name, **options.get(name, {}))(getattr(handlers, "work" if name == "craft" else name))
    return app


class Handlers:
    """One for each type, under its name; each notes when it is called."""

    def __init__(self, notes: Notes, random: Random) -> None:
        self._notes, self._random = notes, random

    def _note(self, task: perdure.Task, what: str) -> None:
        self._notes.write([what, str(task.run_id), task.task_id, task.attempt, os.getpid(), time.monotonic()])

    async def _pass_time(self) -> None:
        await asyncio.sleep(self._random.choice([0, 0, 0.005, 0.02, 0.1, 0.5]))

    async def work(self, task: perdure.Task, n: int = 0) -> int:
        self._note(task, "begins")
        await self._pass_time()
        return n + 1

    def flaky(self, task: perdure.Task, n: int, times: int) -> int:
        self._note(task, "begins")
        if task.attempt <= times:
            _raise(n + task.attempt)
        return n + 1

    async def hang(self, task: perdure.Task, n: int, times: int) -> int:
        self._note(task, "begins")
        if task.attempt <= times:
            await asyncio.sleep(3600)
        return n + 1

    async def deaf(self, task: perdure.Task, n: int, times: int) -> int:
        self._note(task, "begins")
        until = time.monotonic() + (20 if task.attempt <= times else 0)
        while time.monotonic() < until:
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                continue
        return n + 1

    def thread(self, task: perdure.Task, n: int, times: int) -> int:
        self._note(task, "begins")
        while task.attempt <= times and not task.is_cancelled:
            time.sleep(0.01)
        return n + 1

    async def beat(self, task: perdure.Task, n: int, times: int) -> int:
        self._note(task, "begins")
        for _ in range(8):
            await asyncio.sleep(0.2)
            if task.attempt > times:
                task.heartbeat()
        return n + 1

    async def book(self, task: perdure.Task, connection: AsyncConnection) -> str:
        self._note(task, "begins")
        token = str(uuid4())
        row = {"run": task.run_id, "task": task.task_id, "attempt": task.attempt, "token": token}
        await connection.execute(text("insert into public.ledger values (:run, :task, :attempt, :token)"), row)
        await self._pass_time()
        return token

    async def send(self, task: perdure.Task) -> None:
        self._note(task, "begins")
        await self._pass_time()

    async def gate(self, task: perdure.Task, n: int) -> int:
        self._note(task, "begins")
        await asyncio.sleep(self._random.choice([0.02, 0.1]))
        self._note(task, "ends")
        return n + 1

    async def deadly(self, task: perdure.Task) -> None:
        self._note(task, "begins")
        os.kill(os.getpid(), signal.SIGKILL)

    async def odd(self, task: perdure.Task, kind: str) -> Any:
        self._note(task, "begins")
        match kind:
            case "nan":
                return {"value": math.nan}
            case "surrogate":
                return ["\ud800"]
            case "big":
                return "x" * 101_000_000
            case _:
                return object()

    async def greedy(self, task: perdure.Task, n: int, times: int) -> int:
        self._note(task, "begins")
        taken = []
        while task.attempt <= times:
            taken.append(bytearray(_CHUNK))
        return n + 1

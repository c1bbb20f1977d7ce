"""Everything at once, at random, for as long as is asked: writers, readers and their server lead a hard life."""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import psycopg
from acceptance.forks import Child, ForkServer
from bad_days.crowd import Crowd, settle_prepared
from bad_days.misfortunes import Misfortunes
from bad_days.notes import MARKER
from bad_days.verdict import Verdict
from breaking_proxy import Where, breaking_proxy
from postgres_server import PostgresServer

PLACES: tuple[Where, ...] = ("before the statement", "in the middle", "before the answer")


class Chaos:
    """Blows fall on a crowd. Which, when and on whom is the seed's choice."""

    def __init__(
        self, server: PostgresServer, forks: ForkServer, folder: Path, seed: int, longest_freeze: float = 6.0
    ) -> None:
        """``longest_freeze``, in seconds, is longer than the drift that the log allows a clock."""
        self._server, self._longest_freeze = server, longest_freeze
        self._crowd = Crowd(forks, folder, server.url, seed)
        self._random = self._crowd.random
        self._blows: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        server_blows = self._misfortunes = Misfortunes(server, self._random)
        self._ways: list[str] = []
        self._kinds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, self._kill_a_writer), (3, self._kill_a_reader), (4, self._freeze_a_writer),
            (6, server_blows.end_backends), (3, server_blows.lose_hints), (10, self._cut_a_connection),
            (4, self._settle_prepared), (1, server_blows.kill_the_server), (1, server_blows.restart_the_server),
            (1, server_blows.kill_a_backend),
        ]  # fmt: skip

    def run(self, seconds: float, *, writers: int = 8, readers: int = 2) -> Verdict:
        """Let it all happen, and judge."""
        return asyncio.run(self._run(seconds, writers, readers))

    async def _run(self, seconds: float, writers: int, readers: int) -> Verdict:
        async with breaking_proxy(self._server.url) as (through, proxy):
            self._proxy, self._ways = proxy, [self._server.url, through]
            for _ in range(writers):
                self._crowd.start_writer(self._random.choice(self._ways))
            for _ in range(readers):
                self._crowd.start_reader()
            self._misfortunes.open_unrelated()
            await self._strike(seconds)
            await asyncio.gather(*self._tasks)
            verdict = await self._crowd.end()
        self._misfortunes.close()
        return verdict._replace(counts={**verdict.counts, **dict(sorted(self._blows.items()))})

    async def _strike(self, seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        weights, kinds = zip(*self._kinds, strict=True)
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(self._random.uniform(0.05, 0.6))
            (blow,) = self._random.choices(kinds, weights)
            self._blows[blow.__name__.strip("_").replace("_", " ")] += 1
            with suppress(psycopg.OperationalError):  # a server that has not come back yet
                await blow()

    async def _kill_a_writer(self) -> None:
        self._crowd.replace_writer(self._random.choice(self._ways))

    async def _kill_a_reader(self) -> None:
        self._crowd.replace_reader()

    async def _freeze_a_writer(self) -> None:
        seconds = self._longest_freeze * self._random.choice([0.1, 0.3, 1.0])
        task = asyncio.create_task(self._freeze(self._random.choice(self._crowd.writers), seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _freeze(self, child: Child, seconds: float) -> None:
        child.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        child.signal(signal.SIGCONT)

    async def _cut_a_connection(self) -> None:
        self._proxy.break_next(MARKER, self._random.choice(PLACES))

    async def _settle_prepared(self) -> None:
        """Also those whose writers are still at it: somebody else's decision is news to them."""
        await asyncio.to_thread(settle_prepared, self._server.url, self._random)

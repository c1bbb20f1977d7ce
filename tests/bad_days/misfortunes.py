"""What befalls a server, and a transaction beside it that has nothing to do with anything."""

import asyncio
from random import Random
from typing import Any

import psycopg
from postgres_server import PostgresServer

_TERMINATE = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'perdure'"


class Misfortunes:
    """Blows that fall on one server."""

    def __init__(self, server: PostgresServer, random: Random) -> None:
        self._server, self._random = server, random
        self._unrelated: psycopg.Connection[Any] | None = None

    def close(self) -> None:
        """End the unrelated transaction."""
        if self._unrelated is not None:
            self._unrelated.close()

    async def end_backends(self) -> None:
        share = self._random.choice([0.1, 0.5, 1.0])
        await asyncio.to_thread(self._terminate, f"random() < {share}")

    async def lose_hints(self) -> None:
        await asyncio.to_thread(self._terminate, "query ilike 'listen%'")

    async def kill_the_server(self) -> None:
        await asyncio.to_thread(self._server.kill)
        await self._start_again()

    async def kill_a_backend(self) -> None:
        """With -9: all the others go down with it, and the server comes back by itself."""
        await asyncio.to_thread(self._server.kill_a_backend)
        await asyncio.sleep(1.0)
        self.open_unrelated()

    async def restart_the_server(self) -> None:
        await asyncio.to_thread(self._server.stop, self._random.choice(["fast", "immediate"]))
        await self._start_again()

    def open_unrelated(self) -> None:
        """A transaction older than what follows, that writes and stays open: it has nothing to do with the log."""
        self.close()
        self._unrelated = psycopg.connect(self._server.url)
        self._unrelated.execute("create table if not exists public.unrelated (n int)")
        self._unrelated.commit()
        self._unrelated.execute("insert into public.unrelated values (1)")

    async def _start_again(self) -> None:
        await asyncio.sleep(self._random.uniform(0, 2))
        await asyncio.to_thread(self._server.start)
        self.open_unrelated()

    def _terminate(self, which: str) -> None:
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            connection.execute(f"{_TERMINATE} and {which}".encode())

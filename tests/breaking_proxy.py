"""A proxy before Postgres, on a socket of its own, that breaks a connection exactly where a test wants it broken."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Literal

from sqlalchemy import make_url

Where = Literal["before the statement", "in the middle", "before the answer"]

_PORT = 5432


class BreakingProxy:
    """Forwards bytes. After ``break_next(marker, where)`` the next message with ``marker`` loses its connection.

    "before the statement": Postgres never sees it. "in the middle": Postgres sees half of it. "before the answer":
    Postgres has it whole, does it, commits and answers, and the answer is thrown away.
    """

    def __init__(self, host: str, port: int) -> None:
        """``host`` is a name, or the folder of a Unix socket."""
        self._host, self._port = host, port
        self._marker: bytes | None = None
        self._where: Where = "before the answer"
        self.broken = 0
        self._left: Callable[[bytes], int] | None = None
        self.holding, self._released = asyncio.Event(), asyncio.Event()
        self._answered = asyncio.Event()
        self._mute: asyncio.StreamWriter | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def hold_next(self, marker: bytes, left: Callable[[bytes], int]) -> None:
        """Let the next piece with ``marker`` through but for ``left`` bytes of it, which wait for ``release``."""
        self._marker, self._left = marker, left

    def release(self) -> None:
        """Let go what is held."""
        self._released.set()

    def break_next(self, marker: bytes, where: Where) -> None:
        self._marker, self._where, self._left = marker, where, None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        async with AsyncExitStack() as ends:
            ends.callback(self._tasks.discard, task)
            ends.push_async_callback(_closed, writer)
            ends.callback(writer.close)
            # One end is gone, never was there, or was cut, and the other goes with it.
            with suppress(OSError, asyncio.CancelledError):
                server_reader, server_writer = await self._connect()
                ends.callback(server_writer.close)
                answers = asyncio.create_task(self._forward(server_reader, writer))
                ends.callback(answers.cancel)
                await self._pass_on(reader, server_writer, writer)

    async def _pass_on(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(1 << 20):
            if self._marker is None or self._marker not in data:
                server.write(data)
                continue
            self._marker = None
            if self._left is not None:
                await self._hold(data, self._left(data), server)
                continue
            self.broken += 1
            if self._where == "in the middle":
                server.write(data[: len(data) // 2])
                await server.drain()
            elif self._where == "before the answer":
                self._answered.clear()
                self._mute = client
                server.write(data)
                await self._answered.wait()
            return

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._host.startswith("/"):
            return await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        return await asyncio.open_connection(self._host, self._port)

    async def _hold(self, data: bytes, left: int, writer: asyncio.StreamWriter) -> None:
        self._released.clear()
        writer.write(data[: len(data) - left])
        self.holding.set()
        await self._released.wait()
        self.holding.clear()
        writer.write(data[len(data) - left :])

    async def cut(self) -> None:
        """Break every connection there is now, on both sides."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                if writer is self._mute:
                    self._answered.set()
                else:
                    writer.write(data)
        if writer is self._mute:
            self._answered.set()
        writer.close()


async def _closed(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()


@asynccontextmanager
async def breaking_proxy(url: str) -> AsyncIterator[tuple[str, BreakingProxy]]:
    """The proxy before the database of ``url``, and the URL that goes through it."""
    parsed = make_url(url)
    host, port = parsed.query.get("host", parsed.host or "localhost"), parsed.query.get("port", parsed.port or _PORT)
    with tempfile.TemporaryDirectory(prefix="proxy-") as folder:
        proxy = BreakingProxy(str(host), int(str(port)))
        server = await asyncio.start_unix_server(proxy.serve, Path(folder) / f".s.PGSQL.{_PORT}")
        through = parsed.set(host=None, port=None).update_query_dict({"host": folder, "port": str(_PORT)})
        try:
            yield through.render_as_string(hide_password=False), proxy
        finally:
            server.close()
            # Who has just come in begins its task first.
            await asyncio.sleep(0.01)
            await proxy.cut()

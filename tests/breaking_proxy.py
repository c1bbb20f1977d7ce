"""A proxy before Postgres, on a socket of its own, that breaks a connection exactly where a test wants it broken."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal

from sqlalchemy import make_url

Where = Literal["before the statement", "before the answer"]

_PORT = 5432


class BreakingProxy:
    """Forwards bytes. After ``break_next(marker, where)`` the next message with ``marker`` loses its connection.

    "before the statement": Postgres never sees it. "before the answer": Postgres has it whole, does it, commits and
    answers, and the answer is thrown away.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._marker: bytes | None = None
        self._where: Where = "before the answer"
        self.broken = 0
        self._answered = asyncio.Event()
        self._mute: asyncio.StreamWriter | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def break_next(self, marker: bytes, where: Where) -> None:
        self._marker, self._where = marker, where

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        server_reader, server_writer = await asyncio.open_unix_connection(self._target)
        answers = asyncio.create_task(self._forward(server_reader, writer))
        try:
            while data := await reader.read(1 << 20):
                if self._marker is None or self._marker not in data:
                    server_writer.write(data)
                    continue
                self._marker = None
                self.broken += 1
                if self._where == "before the answer":
                    self._answered.clear()
                    self._mute = writer
                    server_writer.write(data)
                    await self._answered.wait()
                break
        finally:
            answers.cancel()
            with suppress(asyncio.CancelledError):
                await answers
            for end in (writer, server_writer):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()
            self._tasks.discard(task)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            if writer is self._mute:
                self._answered.set()
            else:
                writer.write(data)
        writer.close()


@asynccontextmanager
async def breaking_proxy(url: str) -> AsyncIterator[tuple[str, BreakingProxy]]:
    """The proxy before the database of ``url`` (on a Unix socket), and the URL that goes through it."""
    parsed = make_url(url)
    host, port = parsed.query["host"], parsed.query.get("port", str(parsed.port or _PORT))
    with tempfile.TemporaryDirectory(prefix="proxy-") as folder:
        proxy = BreakingProxy(Path(str(host)) / f".s.PGSQL.{port}")
        server = await asyncio.start_unix_server(proxy.serve, Path(folder) / f".s.PGSQL.{_PORT}")
        through = parsed.set(port=None).update_query_dict({"host": folder, "port": str(_PORT)})
        try:
            yield through.render_as_string(hide_password=False), proxy
        finally:
            server.close()
            await proxy.close()

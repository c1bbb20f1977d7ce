"""Node processes that live and die: what forked children run in the tests of the node."""

import asyncio
import json
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

from applications import new_app
from logs import opened
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

import perdure
import perdure_engine.exactly_once as exactly_once
import perdure_eventstore.append as append
from perdure_eventstore import keeper
from perdure_eventstore.archive import moving
from perdure_eventstore.vault.file_store import FileKeyStore
from perdure_eventstore.vault.postgres_store import PostgresKeyStore
from perdure_eventstore.vault.stores import KeyStore


def application(url: str, notes: str, **settings: Any) -> perdure.App:
    """Handlers that leave a line in the file ``notes`` when they are called."""
    app = new_app(url, **settings)

    def note(task: perdure.Task, what: str) -> None:
        with Path(notes).open("a") as file:
            file.write(f"{task.task_id} {task.attempt} {what} {os.getpid()}\n")

    @app.task()
    async def work(task: perdure.Task, seconds: float = 0.0) -> int:
        note(task, "begins")
        await asyncio.sleep(seconds)
        note(task, "ends")
        return os.getpid()

    @app.task()
    async def fail_once(task: perdure.Task) -> int:
        note(task, "begins")
        if task.attempt == 1:
            raise RuntimeError("the first attempt fails")
        return os.getpid()

    @app.task()
    async def deadly(task: perdure.Task) -> None:
        note(task, "begins")
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task()
    async def book(task: perdure.Task, connection: AsyncConnection) -> str:
        note(task, "begins")
        await connection.execute(text("insert into public.ledger values (:task)"), {"task": task.idempotency_key})
        return task.idempotency_key

    return app


async def node(url: str, notes: str, settings: dict[str, Any] | None = None) -> None:
    """Work until SIGTERM, then stop cleanly."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with application(url, notes, **(settings or {})).node(views=False):
        await stopping.wait()


async def frozen_before_commit(url: str, notes: str) -> None:
    """A node that freezes when an exactly-once task has appended and not committed yet."""
    original = append.send

    async def send(*arguments: Any) -> Any:
        answer = await original(*arguments)
        os.kill(os.getpid(), signal.SIGSTOP)
        return answer

    with patch.object(exactly_once, "send", send):
        await node(url, notes)


async def eraser(url: str, run: str, batch: int) -> None:
    """Erase a run, a few payloads a transaction."""
    with patch.object(keeper, "_BATCH", batch):
        async with application(url, os.devnull) as app:
            await app.erase(UUID(run), reason="asked to")


async def archiver(url: str, folder: str, streams: int) -> None:
    """Archive whatever is over, a few streams a transaction."""
    with patch.object(moving, "STREAMS", streams):
        async with application(url, os.devnull) as app:
            await app.archive(Path(folder), timedelta(0))


async def key_maker(folder: str, url: str, streams: list[str], start: float, answer: str) -> None:
    """Make keys for ``streams``, from the moment ``start`` on, and write down which ones stand."""
    own, stands = str(os.getpid()).encode(), dict[UUID, bytes | None]()
    async with opened(url) as engine:
        store: KeyStore = FileKeyStore(Path(folder)) if folder else PostgresKeyStore(engine)
        wanted = [UUID(stream) for stream in streams]
        await store.get(wanted[:1])
        await asyncio.sleep(max(0.0, start - asyncio.get_running_loop().time()))
        for n in range(0, len(wanted), 7):
            stands |= await store.create(dict.fromkeys(wanted[n : n + 7], own))
        await store.close()
    Path(answer).write_text(json.dumps({str(stream): (key or b"").decode() for stream, key in stands.items()}))

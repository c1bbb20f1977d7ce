"""What processes do while their database fails over: a node, and a publisher that notes what it was told."""

import asyncio
import signal
from typing import Any
from uuid import uuid4

from acceptance.walk import Notes
from applications import SOON, task, workflow
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

import perdure

ORDER = workflow(
    "order", task("first", "began"), task("try", "first.completed", type="stumble", retry=SOON),
    task("book", {"all": ["try.completed", {"event": "paid", "within": "1h"}]}, type="book", retry=False),
    task("last", "book.completed"), start=["began"], key="{{n}}",
)  # fmt: skip

LONG = workflow("long", task("it", type="take_long", inputs={"seconds": "{{seconds}}"}))


def application(url: str, **settings: Any) -> perdure.App:
    app = perdure.App(url, settings=perdure.Settings(**{"lease": 2.0, "poll": 0.2, "patience": 60.0, **settings}))

    @app.task()
    async def work() -> str:
        await asyncio.sleep(0.02)
        return str(uuid4())

    @app.task()
    async def stumble(task: perdure.Task) -> str:
        if task.attempt == 1:
            raise RuntimeError("the first attempt fails")
        return str(uuid4())

    @app.task()
    async def book(task: perdure.Task, connection: AsyncConnection) -> str:
        token = str(uuid4())
        row = {"run": task.run_id, "token": token}
        await connection.execute(text("insert into public.ledger (run, token) values (:run, :token)"), row)
        return token

    @app.task()
    async def take_long(seconds: float) -> None:
        await asyncio.sleep(seconds)

    return app


async def node(url: str) -> None:
    """Work until SIGTERM, then stop cleanly."""
    async with application(url).node(views=False):
        await _told_to_stop().wait()


async def publisher(url: str, notes: str, pause: float) -> None:
    """Start runs and give them their second event until SIGTERM, and note every event that was acknowledged."""
    stop, writing, count = _told_to_stop(), Notes(notes), 0
    async with application(url) as app:

        async def publish(name: str, n: int) -> None:
            event, payload = uuid4(), {"n": n}
            await app.publish(name, payload, event_id=event)
            writing.write("published", event=str(event), name=name, payload=payload)

        async def order(n: int) -> None:
            await publish("began", n)
            await publish("paid", n)

        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                group.create_task(order(count))
                count += 1
                await asyncio.sleep(pause)
    writing.write("finished", orders=count)


def _told_to_stop() -> asyncio.Event:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    return stop

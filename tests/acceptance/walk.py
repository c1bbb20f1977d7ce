"""The run of six tasks that is killed everywhere, and the process that runs it and dies at a given place."""

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4, uuid5

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

import perdure
import perdure_engine.exactly_once as exactly_once
import perdure_eventstore.append as append
import perdure_eventstore.lane as lane
from perdure_engine.endings import Endings
from perdure_engine.held_run import HeldRun
from perdure_engine.identity import run_for_event
from perdure_engine.run.events import RunEvent, TaskCompleted
from perdure_engine.run.state import RunState

# An entry, two in parallel, their join, one that waits for a second event, and one whose event never comes.
DEFINITION = {
    "workflow_id": "order",
    "tasks": [
        {"task_id": "reserve", "type": "work", "triggers": ["ordered"]},
        {"task_id": "charge", "type": "book", "depends_on": ["reserve"]},
        {
            "task_id": "pick",
            "type": "stumble",
            "depends_on": ["reserve"],
            "retry": {"attempts": 2, "initial": 0.05, "jitter": 0},
        },
        {"task_id": "pack", "type": "call_courier", "depends_on": ["charge", "pick"]},
        {"task_id": "ship", "type": "work", "triggers": [{"all": ["pack.completed", "courier_came"]}]},
        {
            "task_id": "remind",
            "type": "work",
            "depends_on": ["reserve"],
            "triggers": [{"event": "complained", "within": 0.1}],
        },
    ],
}
TASKS = {"reserve", "charge", "pick", "pack", "ship"}
"""Those that complete; ``remind`` is skipped when its time is over."""


def courier_event(run: UUID) -> UUID:
    """The second event's id, the same each time it is asked: who publishes again publishes the same."""
    return uuid5(run, "courier_came")


class Notes:
    """What this process was told, and where it died: lines of a file that outlives it."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, kind: str, **values: Any) -> None:
        os.write(self._file, orjson.dumps({"kind": kind, **values}) + b"\n")


class Killer:
    """Counts the places where the process could die, and dies at the one that was asked for."""

    def __init__(self, notes: Notes, place: int) -> None:
        self._notes, self._place = notes, place
        self.count = 0

    def pass_by(self, where: str, types: Sequence[str]) -> None:
        self.count += 1
        if self.count == self._place:
            self._notes.write("killed", where=where, types=list(types))
            os.kill(os.getpid(), signal.SIGKILL)


def instrument(killer: Killer, notes: Notes) -> None:
    """Before each append is sent; after it is committed and before anything follows; what listeners are told."""
    held = list[str]()
    original_send, original_evolve, original_told = append.send, HeldRun.evolve, Endings.told

    async def send(connection: Any, statement: Any, batch: Any, clock: Any) -> Any:
        types = [event.type for each in batch.appends for event in each.events]
        killer.pass_by("before", types)
        answer = await original_send(connection, statement, batch, clock)
        in_transaction = connection.info.transaction_status != 0
        killer.pass_by("uncommitted" if in_transaction else "after", types)
        if in_transaction:
            held[:] = types
        return answer

    def evolve(run: HeldRun, *arguments: Any) -> None:
        if held:
            types, held[:] = held[:], []
            killer.pass_by("after", types)
        original_evolve(run, *arguments)

    def told(endings: Endings, run: UUID, events: Sequence[RunEvent], state: RunState) -> None:
        for event in events:
            if isinstance(event, TaskCompleted):
                notes.write("output", run=str(run), task=event.task_id, output=event.output.value)
        original_told(endings, run, events, state)

    lane.send = exactly_once.send = send
    HeldRun.evolve, Endings.told = evolve, told  # type: ignore[method-assign]


def application(url: str, notes: Notes) -> perdure.App:
    """Handlers whose outputs are never the same twice: what was acknowledged and then done again would show."""
    app = perdure.App(url, settings=perdure.Settings(lease=0.5, poll=0.1))

    @app.task()
    async def work() -> str:
        await asyncio.sleep(0.005)
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
    async def call_courier(task: perdure.Task) -> str:
        await publish(app, notes, "courier_came", {"for": str(task.run_id)}, courier_event(task.run_id))
        return str(uuid4())

    return app


async def publish(app: perdure.App, notes: Notes, name: str, payload: Any, event_id: UUID) -> None:
    await app.publish(name, payload, event_id=event_id)
    notes.write("published", event=str(event_id), payload=payload)


async def walk(url: str, event_id: str, notes: str, place: int = 0) -> None:
    """Register, publish, execute, until the run has ended or this process dies at its ``place``; 0: nowhere."""
    writing = Notes(notes)
    killer = Killer(writing, place)
    instrument(killer, writing)
    app = application(url, writing)
    event = UUID(event_id)
    async with app.node(views=False):
        await app.register(DEFINITION)
        await publish(app, writing, "ordered", {"order": event_id}, event)
        run = run_for_event(event, "order")
        for _ in range(1_000):
            try:
                result = await app.run(run).result(timeout=15)
                break
            except LookupError:
                await asyncio.sleep(0.01)
        writing.write("result", run=str(run), result=result)
    writing.write("finished", places=killer.count)

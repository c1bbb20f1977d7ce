"""The run of six tasks that is killed everywhere, and the process that runs it and dies at a given place."""

import asyncio
import os
import signal
from collections.abc import Iterable, Sequence
from typing import Any
from unittest.mock import patch
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
from perdure_engine.run.events import RunEvent, TaskCompleted
from perdure_engine.run.state import RunState
from perdure_eventstore.events import NewEvent


def definition(event: UUID) -> dict[str, Any]:
    """An entry, two in parallel, their join, one that waits for a second event, and one whose event never comes.

    A workflow of its own for every case: its registration is one of the places.
    """
    workflow = f"order_{event.hex}"
    retry = {"attempts": 2, "initial": 0.05, "jitter": 0}
    complained = {"event": "complained", "within": 0.1}
    return {
        "workflow_id": workflow,
        "tasks": [
            {"task_id": "reserve", "type": "work", "triggers": [workflow]},
            {"task_id": "charge", "type": "book", "depends_on": ["reserve"]},
            {"task_id": "pick", "type": "stumble", "depends_on": ["reserve"], "retry": retry},
            {"task_id": "pack", "type": "call_courier", "depends_on": ["charge", "pick"]},
            {"task_id": "ship", "type": "work", "triggers": [{"all": ["pack.completed", "courier_came"]}]},
            {"task_id": "remind", "type": "work", "depends_on": ["reserve"], "triggers": [complained]},
        ],
    }


COMPLETED = {"reserve", "charge", "pick", "pack", "ship"}
"""The tasks that complete; ``remind`` is skipped when its time is over."""


def courier_event(run: UUID) -> UUID:
    """The second event's id, the same each time it is asked: who publishes again publishes the same."""
    return uuid5(run, "courier_came")


class Notes:
    """What this process was told, and where it died: lines of a file that outlives it."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, kind: str, **values: Any) -> None:
        os.write(self._file, orjson.dumps({"kind": kind, **values}) + b"\n")


def transitions(events: Iterable[NewEvent]) -> list[str]:
    """The events of an append, each by a name that is the same in every walk."""
    found = []
    for event in events:
        data = orjson.loads(event.data)
        found.append(" ".join(str(part) for part in (event.type, data.get("task_id"), data.get("attempt")) if part))
    return found


class Killer:
    """Dies where it was told to: ``where`` an append that holds ``transition``."""

    def __init__(self, notes: Notes, where: str, transition: str) -> None:
        self._notes, self._where, self._transition = notes, where, transition

    def pass_by(self, where: str, passed: Sequence[str]) -> None:
        self._notes.write("passed", where=where, transitions=passed)
        if where == self._where and self._transition in passed:
            self._notes.write("killed", where=where, transitions=passed)
            os.kill(os.getpid(), signal.SIGKILL)


def instrument(killer: Killer, notes: Notes) -> None:
    """Before each append is sent; after it is committed and before anything follows; what listeners are told."""
    held = list[str]()
    original_send, original_evolve, original_told = append.send, HeldRun.evolve, Endings.told

    async def send(connection: Any, statement: Any, batch: Any, clock: Any) -> Any:
        passed = transitions(event for each in batch.appends for event in each.events)
        killer.pass_by("before", passed)
        answer = await original_send(connection, statement, batch, clock)
        in_transaction = connection.info.transaction_status != 0
        killer.pass_by("uncommitted" if in_transaction else "after", passed)
        if in_transaction:
            held[:] = passed
        return answer

    def evolve(run: HeldRun, *arguments: Any) -> None:
        if held:
            passed, held[:] = held[:], []
            killer.pass_by("after", passed)
        original_evolve(run, *arguments)

    def told(endings: Endings, run: UUID, events: Sequence[RunEvent], state: RunState) -> None:
        for event in events:
            if isinstance(event, TaskCompleted):
                notes.write("output", run=str(run), task=event.task_id, output=event.output.value)
        original_told(endings, run, events, state)

    for place, name, wrapped in (
        (lane, "send", send), (exactly_once, "send", send), (HeldRun, "evolve", evolve), (Endings, "told", told),
    ):  # fmt: skip
        patch.object(place, name, wrapped).start()


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


async def publish(app: perdure.App, notes: Notes, name: str, payload: Any, event_id: UUID) -> perdure.Published:
    published = await app.publish(name, payload, event_id=event_id)
    notes.write("published", event=str(event_id), payload=payload)
    return published


async def walk(url: str, event_id: str, notes: str, where: str, transition: str) -> None:
    """Register, publish, execute, until the run has ended or this process dies where it was told to."""
    writing, event = Notes(notes), UUID(event_id)
    instrument(Killer(writing, where, transition), writing)
    app = application(url, writing)
    order = definition(event)
    async with app.node(views=False):
        await app.register(order)
        published = await publish(app, writing, order["workflow_id"], {"order": event_id}, event)
        (run,) = await published.runs()
        writing.write("result", run=str(run.run_id), result=await run.result(timeout=15))
    writing.write("finished")

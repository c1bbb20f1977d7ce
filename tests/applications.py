"""Small applications for the tests of the node."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from uuid import UUID

import orjson
from logs import rows

import perdure
from perdure_engine.tenure import Tenure

ONCE = {"attempts": 1}
SOON = {"attempts": 3, "initial": 0.05, "jitter": 0}


def new_app(url: str, **settings: Any) -> perdure.App:
    """An app that notices everything soon."""
    return perdure.App(url, settings=perdure.Settings(**{"lease": 1.0, "poll": 0.1, "patience": 2.0, **settings}))


def workflow(workflow_id: str, *tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"workflow_id": workflow_id, "tasks": list(tasks), **more}


def task(task_id: str, *triggers: Any, type: str = "work", **more: Any) -> dict[str, Any]:
    """A task of ``type``; with no trigger it is ready at the run's start."""
    return {"task_id": task_id, "type": type, "triggers": list(triggers), **more}


def tenure_of(app: perdure.App) -> Tenure:
    """What the app's node is made of now."""
    assert app.client.node is not None and app.client.node.tenure is not None
    return app.client.node.tenure


class Calls:
    """What a handler was called with: made by ``recorder``."""

    def __init__(self) -> None:
        self.tasks: list[perdure.Task] = []

    def __len__(self) -> int:
        return len(self.tasks)


def recorder(app: perdure.App, name: str = "work", seconds: float = 0.0, **more: Any) -> Calls:
    """A task type ``name`` that takes ``seconds``, returns its inputs and keeps note of its calls."""
    calls = Calls()

    @app.task(name, **more)
    async def record(task: perdure.Task, **inputs: Any) -> Any:
        calls.tasks.append(task)
        await asyncio.sleep(seconds)
        return inputs

    return calls


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait, with a deadline, until ``condition()`` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"nothing after {seconds} s"
        await asyncio.sleep(0.005)


def story(url: str, run: UUID) -> list[str]:
    """A run's events, each as its type, task and attempt."""
    found = []
    for type_, text in rows(
        url, "select type, data::text from perdure.events where stream = %s order by version", (run,)
    ):
        data = orjson.loads(text)
        found.append(" ".join(str(part) for part in (type_, data.get("task_id"), data.get("attempt")) if part))
    return found


def facts(url: str, run: UUID, type_: str) -> list[dict[str, Any]]:
    """The engine's facts of a run's events of one type."""
    wanted = "select data::text from perdure.events where stream = %s and type = %s order by version"
    return [orjson.loads(text) for (text,) in rows(url, wanted, (run, type_))]


def shards(url: str) -> dict[UUID, list[int]]:
    """Which shards each node holds under a lease that has not run out."""
    found = defaultdict[UUID, list[int]](list)
    for node, shard in rows(url, "select node, shard from perdure.shards where lease_until > clock_timestamp()"):
        found[node].append(shard)
    return dict(found)

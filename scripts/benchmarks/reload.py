"""A run of very many tasks, loaded from its events and from a snapshot, and what taking one costs beside it."""

import argparse
import asyncio
import json
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

import perdure
from perdure_engine.history import Loaded, load_run
from perdure_engine.identity import new_id
from perdure_engine.run import RunState, advance, new_run
from perdure_engine.run.codec import encode
from perdure_engine.run.commands import BeginAttempt, CompleteAttempt, RunCommand, StartRun
from perdure_engine.run.snapshot import pack, unpack
from perdure_engine.snapshots import Snapshots
from perdure_engine.work import work_of
from perdure_eventstore.append import Append
from perdure_eventstore.door import Json
from perdure_eventstore.events import NO_STREAM
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

AT = datetime.now(UTC)


async def write_run(app: perdure.App, tasks: int) -> tuple[UUID, RunState]:
    """A run whose tasks are done but for the last, written to the log as a node would, in larger appends."""
    document = {
        "workflow_id": "many",
        "tasks": [{"task_id": f"t{n}", "type": "noop", "inputs": {"n": n}, "triggers": []} for n in range(tasks)],
    }
    registered = await app.register(document, allow_unknown_types=True)
    state = new_run(await app.client.registry.definition(registered.digest), new_id())
    node, head = new_id(), NO_STREAM
    commands: list[RunCommand] = [StartRun(at=AT, input=Json.of({}))]
    for n in range(tasks - 1):
        commands.append(BeginAttempt(task_id=f"t{n}", node=node))
        commands.append(CompleteAttempt(at=AT, task_id=f"t{n}", attempt=1, output=Json.of({"done": n})))
    events: list[Any] = []
    for command in commands:
        made, state = advance(state, command)
        events += made
        if len(events) >= 2_000 or command is commands[-1]:
            append = Append(state.run_id, head, [encode(event, b"{}") for event in events])
            append = Append(append.stream, head, append.events, work_of(state.run_id, events) or None)
            head, events = (await app.client.appender.append(append)).head, []
    return state.run_id, state


async def timed(work: Callable[[], Awaitable[Any]]) -> tuple[dict[str, float], Any]:
    """Seconds of ``work``, those of this process' CPU, the longest the event loop stood still; and what it gave."""
    longest, stop = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not stop.is_set():
            begun = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - begun - 0.001)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    longest, begun, worked = 0.0, time.perf_counter(), time.process_time()
    result = await work()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - worked
    stop.set()
    await watching
    return {"seconds": round(seconds, 3), "cpu": round(cpu, 3), "longest_stall": round(longest, 3)}, result


def memory_of(make: Callable[[], RunState]) -> int:
    """Bytes that a state takes."""
    tracemalloc.start()
    state = make()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del state
    return size


async def measure(url: str, tasks: int) -> dict[str, Any]:
    """Write, load, keep, load."""
    app = perdure.App(url)
    async with app:
        run, _ = await write_run(app, tasks)
        session = Session(app.database)
        reader, registry = Reader(session), app.client.registry
        snapshots = Snapshots(session)
        folded: Loaded
        folding, folded = await timed(lambda: load_run(reader, registry, run))
        taking, kept = await timed(lambda: snapshots.keep(folded.state, folded.head))
        loading, loaded = await timed(lambda: load_run(reader, registry, run, snapshots))
        assert kept
        assert loaded[:2] == folded[:2]
        packed = pack(folded.state)
        [(stored,)] = await session.fetch("select octet_length(state) from perdure.snapshots")
        await session.close()
    return {
        "tasks": tasks, "events": folded.head.version, "event_bytes": folded.size,
        "state_bytes": memory_of(lambda: unpack(packed, folded.state.definition)), "snapshot_bytes": stored,
        "folded": folding, "from_snapshot": loading, "taken": taking,
    }  # fmt: skip


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(prog="scripts/bench reload", description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument(
        "--database", help="a scratch database by URL; without it, an embedded one in a temporary folder"
    )
    given = parser.parse_args()
    structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(given.database or f"embedded:{folder}", given.tasks))))


if __name__ == "__main__":
    main()

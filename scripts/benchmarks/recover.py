"""Runs that a dead node left under way: how soon all are recorded as interrupted and scheduled again.

With --parked, very many runs that only wait for an event are open beside them.
"""

import asyncio
from datetime import UTC, datetime

from support.bench import Stopwatch, arguments, fetch, say, scratch

import perdure
from perdure_engine.definitions.definition import Definition
from perdure_engine.identity import new_id
from perdure_engine.run import RunState, advance, new_run
from perdure_engine.run import commands as c
from perdure_engine.run.codec import encode
from perdure_engine.run.events import RunEvent
from perdure_engine.work import work_of
from perdure_eventstore.append import Append
from perdure_eventstore.door import Json
from perdure_eventstore.events import NO_STREAM
from perdure_eventstore.session import Session
from perdure_eventstore.tree import Tree

AT = datetime.now(UTC)
DEAD = new_id()
STEPS = 7
CHAIN = {
    "workflow_id": "chain",
    "tasks": [
        {"task_id": f"s{i}", "type": "noop", "inputs": {"i": i}, "triggers": [f"s{i - 1}.completed"] if i else []}
        for i in range(STEPS)
    ],
}
WAITING = {"workflow_id": "waiting", "tasks": [{"task_id": "sleep", "triggers": [], "delay": "30d"}]}


def half_done(definition: Definition) -> Append:
    """A run of 20 events, the last of them a start on a node that is dead."""
    commands: list[c.RunCommand] = [c.StartRun(at=AT, input=Json.of({}))]
    for i in range(STEPS):
        commands.append(c.BeginAttempt(task_id=f"s{i}", node=DEAD))
        if i < STEPS - 1:
            commands.append(c.CompleteAttempt(at=AT, task_id=f"s{i}", attempt=1, output=Json.of({"id": i})))
    return written(new_run(definition, new_id()), commands)


def written(state: RunState, commands: list[c.RunCommand]) -> Append:
    """The append of what ``commands`` make of a new run."""
    events: list[RunEvent] = []
    run = state.run_id
    for command in commands:
        made, state = advance(state, command)
        events += made
    work = work_of(run, events, parked=state.is_parked, definition=state.definition)
    return Append(run, NO_STREAM, [encode(event, b"{}") for event in events], work)


async def fill(app: perdure.App, runs: int, parked: int) -> None:
    """Write the runs as nodes would have, in large appends."""
    for document in (CHAIN, WAITING):
        await app.register(document, allow_unknown_types=True)
    registry = app.client.registry
    found = {version.workflow_id: version.digest for version in await registry.versions()}
    chain, waiting = [await registry.definition(found[name]) for name in ("chain", "waiting")]
    start = c.StartRun(at=AT, input=Json.of({}))
    for first in range(0, parked, 2_000):
        some = range(min(2_000, parked - first))
        await asyncio.gather(*(app.client.appender.append(written(new_run(waiting, new_id()), [start])) for _ in some))
    for first in range(0, runs, 500):
        some = range(min(500, runs - first))
        await asyncio.gather(*(app.client.appender.append(half_done(chain)) for _ in some))
    for table in ("open_runs", "timers", "events"):
        await fetch(app, f"vacuum analyze perdure.{table}")
    # A node that dies leaves the log routed and the tree grown, but for the last seconds.
    session = Session(app.database)
    try:
        ((head,),) = await session.fetch("select max(position) from perdure.events")
        await session.fetch("update perdure.router set position = %s returning position", (head,))
        await Tree(session).grow(head)
    finally:
        await session.close()


async def main() -> None:
    options = arguments("recover", __doc__, runs=10_000, parked=0)
    async with scratch(options.database) as app:
        async with app:
            await fill(app, options.runs, options.parked)
            ((head,),) = await fetch(app, "select max(position) from perdure.events")
        watch = Stopwatch()
        async with app.node(views=False):
            joined = watch.seconds
            again = "select count(*) from perdure.events where position > %s and type = 'TaskInterrupted'"
            while (await fetch(app, again, (head,)))[0][0] < options.runs:
                await asyncio.sleep(0.1)
            recorded = watch.seconds
            done = "select count(*) from perdure.open_runs where not parked"
            while (await fetch(app, done))[0][0]:
                await asyncio.sleep(0.1)
            ended = watch.seconds
    say(
        options, runs=options.runs, parked=options.parked, seconds_to_join=round(joined, 2),
        seconds_until_all_scheduled_again=round(recorded, 2), seconds_until_all_ended=round(ended, 2),
    )  # fmt: skip


asyncio.run(main())

"""The chain on an empty log, and on one with very many events: what is left of its speed."""

import asyncio
from datetime import UTC, datetime

from chain import chain, drive
from support.bench import arguments, fetch, say, scratch

import perdure
from perdure_engine.identity import new_id
from perdure_engine.run import advance, new_run
from perdure_engine.run import commands as c
from perdure_engine.run.codec import encode
from perdure_engine.run.events import RunEvent
from perdure_eventstore.append import Append
from perdure_eventstore.door import Json
from perdure_eventstore.events import NO_STREAM

AT = datetime.now(UTC)
STEPS = 10


async def fill(app: perdure.App, events: int) -> None:
    """Chains that have ended, as nodes would have written them, with views and tree kept up by whoever runs."""
    (version,) = await app.client.registry.versions()
    definition = await app.client.registry.definition(version.digest)
    node, written = new_id(), 0
    while written < events:
        appends = []
        for _ in range(200):
            state, made = new_run(definition, new_id()), list[RunEvent]()
            commands: list[c.RunCommand] = [c.StartRun(at=AT, input=Json.of({"steps": STEPS}))]
            for i in range(STEPS):
                commands.append(c.BeginAttempt(task_id=f"step-{i}", node=node))
                commands.append(
                    c.CompleteAttempt(at=AT, task_id=f"step-{i}", attempt=1, output=Json.of({"status": "ok", "id": i}))
                )
            for command in commands:
                more, state = advance(state, command)
                made += more
            appends.append(Append(state.run_id, NO_STREAM, [encode(event, b"{}") for event in made]))
        await asyncio.gather(*map(app.client.appender.append, appends))
        written += sum(len(append.events) for append in appends)


async def speed(app: perdure.App, runs: int, inflight: int) -> float:
    """Steps a second."""

    async def one() -> None:
        await (await app.start("chain", {"steps": STEPS})).result()

    seconds, _ = await drive(runs, inflight, one)
    return runs * STEPS / seconds


async def main() -> None:
    options = arguments("grow", __doc__, events=1_000_000, runs=500, inflight=50)
    async with scratch(options.database) as app:
        async with app.node():
            await app.register(chain(STEPS))
            before = await speed(app, options.runs, options.inflight)
            await fill(app, options.events)
            # The views fold what was written, which is no part of the chain's speed.
            behind = "select (select max(position) from perdure.events) - min(position) from perdure.projections"
            while (await fetch(app, behind))[0][0] > 1_000:
                await asyncio.sleep(1)
        async with app:
            for table in ("events", "payloads", "runs", "tasks", "open_runs"):
                await fetch(app, f"vacuum analyze perdure.{table}")
            await fetch(app, "checkpoint")
        async with app.node():
            after = await speed(app, options.runs, options.inflight)
    say(
        options, events=options.events, steps_per_s_before=round(before, 1), steps_per_s_after=round(after, 1),
        ratio=round(after / before, 2),
    )  # fmt: skip


asyncio.run(main())

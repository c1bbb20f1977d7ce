"""Very many timers that are due in one second, and how late a few fire on a quiet node."""

import asyncio
import time
from datetime import UTC, datetime

from support.bench import arguments, fetch, percentile, say, scratch

import perdure
from perdure_engine.identity import new_id
from perdure_engine.run import advance, new_run
from perdure_engine.run import commands as c
from perdure_engine.run.codec import encode
from perdure_engine.work import work_of
from perdure_eventstore.append import Append
from perdure_eventstore.door import Json
from perdure_eventstore.events import NO_STREAM

SLEEPER = {"workflow_id": "sleeper", "tasks": [{"task_id": "sleep", "triggers": [], "delay": "{{seconds}}"}]}


async def fill(app: perdure.App, timers: int, seconds: float) -> float:
    """Runs that sleep until one moment, written as nodes would have; that moment, as ``time.time`` has it."""
    (version,) = await app.client.registry.versions()
    definition = await app.client.registry.definition(version.digest)
    due = time.time() + seconds
    for first in range(0, timers, 2_000):
        appends = []
        for _ in range(min(2_000, timers - first)):
            at, run = datetime.now(UTC), new_id()
            start = c.StartRun(at=at, input=Json.of({"seconds": max(0.001, due - at.timestamp())}))
            events, state = advance(new_run(definition, run), start)
            work = work_of(run, events, parked=state.is_parked, definition=definition)
            appends.append(Append(run, NO_STREAM, [encode(event, b"{}") for event in events], work))
        await asyncio.gather(*map(app.client.appender.append, appends))
    return due


async def lateness(app: perdure.App, timers: int) -> list[float]:
    """Seconds by which each of a few timers fired late, as the log has it."""
    runs = [await app.start("sleeper", {"seconds": 1.0 + i / 20}) for i in range(timers)]
    for run in runs:
        await run.result()
    fired = """select extract(epoch from done.recorded_at - (slept.data ->> 'until')::timestamptz)::float8
        from perdure.events slept join perdure.events done using (stream)
        where slept.stream = any(%s) and slept.type = 'TaskDelayed' and done.type = 'TaskCompleted'"""
    return [row[0] for row in await fetch(app, fired, ([run.run_id for run in runs],))]


async def main() -> None:
    options = arguments("timers", __doc__, timers=100_000, few=10, rounds=10)
    async with scratch(options.database) as app:
        async with app:
            await app.register(SLEEPER)
            due = await fill(app, options.timers, options.timers / 4_000 + 10)
            await fetch(app, "vacuum analyze perdure.timers, perdure.open_runs")
        async with app.node(views=False):
            if (early := due - time.time()) < 0:
                raise SystemExit(f"the runs were written {-early:.0f} s too late: it takes a quicker machine, or fewer")
            await asyncio.sleep(early)
            while (await fetch(app, "select exists (select from perdure.open_runs)"))[0][0]:
                await asyncio.sleep(0.05)
            fired = time.time() - due
            late = [each for _ in range(options.rounds) for each in await lateness(app, options.few)]
    say(
        options, timers=options.timers, seconds_until_all_fired=round(fired, 2), few=options.few,
        lateness_p50_ms=round(percentile(late, 0.5) * 1e3, 1), lateness_p99_ms=round(percentile(late, 0.99) * 1e3, 1),
    )  # fmt: skip


asyncio.run(main())

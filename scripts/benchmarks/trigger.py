"""From publish to the start of the task it triggers, on an idle node and beside chains in flight."""

import asyncio
import time
from contextlib import suppress

from chain import chain
from support.bench import arguments, percentile, say, scratch

import perdure

STARTED: dict[int, float] = {}


async def measure(app: perdure.App, events: int, pause: float) -> list[float]:
    """Seconds from each call of publish to the call of the handler."""
    sent = {}
    for i in range(events):
        sent[i] = time.perf_counter()
        await app.publish("rang", {"i": i})
        await asyncio.sleep(pause)
    while len(STARTED) < events:
        await asyncio.sleep(0.01)
    found = [STARTED[i] - sent[i] for i in range(events)]
    STARTED.clear()
    return found


async def main() -> None:
    options = arguments("trigger", __doc__, events=200, inflight=50)
    async with scratch(options.database) as app:

        @app.task("note")
        async def note(i: int) -> None:
            STARTED[i] = time.perf_counter()

        async with app.node():
            answer = {"task_id": "answer", "type": "note", "inputs": {"i": "{{i}}"}, "triggers": ["rang"]}
            await app.register({"workflow_id": "bell", "tasks": [answer]})
            await app.register(chain(10))
            await measure(app, 20, 0.02)
            idle = await measure(app, options.events, 0.03)

            async def keep_busy() -> None:
                while True:
                    await (await app.start("chain", {})).result()

            busy = [asyncio.create_task(keep_busy()) for _ in range(options.inflight)]
            await asyncio.sleep(2)
            beside = await measure(app, options.events, 0.03)
            for task in busy:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
    say(
        options, events=options.events,
        idle_p50_ms=round(percentile(idle, 0.5) * 1e3, 2), idle_p99_ms=round(percentile(idle, 0.99) * 1e3, 2),
        inflight=options.inflight,
        busy_p50_ms=round(percentile(beside, 0.5) * 1e3, 2), busy_p99_ms=round(percentile(beside, 0.99) * 1e3, 2),
    )  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main())

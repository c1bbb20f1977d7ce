"""One run of very many tasks beside runs of a hundred: what a task of it costs."""

import asyncio
import statistics

from support.bench import Stopwatch, arguments, say, scratch

import perdure


def wide(tasks: int) -> dict[str, object]:
    """A definition whose tasks are all ready at the start, and one that waits for them all."""
    fans = [{"task_id": f"t{i}", "type": "noop", "inputs": {"i": i}, "triggers": []} for i in range(tasks)]
    last = {"task_id": "last", "type": "noop", "depends_on": [f"t{i}" for i in range(tasks)]}
    return {"workflow_id": f"wide-{tasks}", "tasks": [*fans, last]}


async def seconds_of(app: perdure.App, tasks: int, runs: int) -> float:
    watch = Stopwatch()
    for _ in range(runs):
        await (await app.start(f"wide-{tasks}")).result()
    return watch.seconds


async def main() -> None:
    options = arguments("fanout", __doc__, tasks=10_000, beside=100, repeat=3)
    async with scratch(options.database) as app, app.node():
        for tasks in (options.tasks, options.beside):
            await app.register(wide(tasks))
        await seconds_of(app, options.beside, 5)
        costs: dict[int, list[float]] = {options.tasks: [], options.beside: []}
        for _ in range(options.repeat):
            for tasks, found in costs.items():
                runs = max(1, options.tasks // tasks)
                found.append(await seconds_of(app, tasks, runs) / (runs * (tasks + 1)) * 1e6)
    large, small = (statistics.median(found) for found in costs.values())
    say(
        options, tasks=options.tasks, us_a_task=round(large, 1), **{f"us_a_task_of_{options.beside}": round(small, 1)},
        ratio=round(large / small, 2),
    )  # fmt: skip


asyncio.run(main())

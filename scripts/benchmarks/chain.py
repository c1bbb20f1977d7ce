"""Chains of no-op tasks: the workload of the peers, each step recorded before the next begins."""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable

import structlog

import perdure
from perdure.collector import spare_collector
from perdure_eventstore.session import Session


def chain(steps: int) -> dict[str, object]:
    """A definition of ``steps`` tasks, one after another."""
    tasks = [
        {
            "task_id": f"step-{i}",
            "type": "noop",
            "inputs": {"i": i},
            "triggers": ["begin"] if i == 0 else [f"step-{i - 1}.completed"],
        }
        for i in range(steps)
    ]
    return {"workflow_id": "chain", "tasks": tasks}


async def drive(runs: int, inflight: int, one: Callable[[], Awaitable[None]]) -> tuple[float, list[float]]:
    """Await ``one`` ``runs`` times, ``inflight`` at once; the seconds of all, and of each."""
    gate, latencies = asyncio.Semaphore(inflight), []

    async def timed() -> None:
        async with gate:
            begun = time.perf_counter()
            await one()
            latencies.append(time.perf_counter() - begun)

    for _ in range(5):
        await timed()
    latencies.clear()
    begun = time.perf_counter()
    await asyncio.gather(*(timed() for _ in range(runs)))
    return time.perf_counter() - begun, sorted(latencies)


async def views_caught_up(app: perdure.App) -> float:
    """Seconds until every projection has folded what is in the log now."""
    begun, session = time.perf_counter(), Session(app.database)
    try:
        head = (await session.fetch("select max(position) from perdure.events"))[0][0]
        while (await session.fetch("select min(position) from perdure.projections"))[0][0] < head:
            await asyncio.sleep(0.01)
    finally:
        await session.close()
    return time.perf_counter() - begun


async def main() -> None:
    options = _arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        app = perdure.App(options.database or f"embedded:{folder}/database")

        @app.task("noop")
        async def noop(i: int) -> dict[str, object]:
            return {"status": "ok", "id": i}

        async def one() -> None:
            run = await app.start("chain", {"steps": options.steps})
            await run.result()

        async with app.node(views=not options.no_views):
            await app.register(chain(options.steps))
            spare_collector()
            seconds, latencies = await drive(options.runs, options.inflight, one)
            lag = 0.0 if options.no_views else await views_caught_up(app)
    report = {
        "peer": "perdure",
        "steps": options.steps,
        "runs": options.runs,
        "inflight": options.inflight,
        "runs_per_s": round(options.runs / seconds, 1),
        "steps_per_s": round(options.runs * options.steps / seconds, 1),
        "p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
        "p99_ms": round(latencies[int(len(latencies) * 0.99) - 1] * 1e3, 2),
        "views_caught_up_after_s": round(lag, 3),
    }
    if options.json:
        print(json.dumps(report))
    else:
        print("\n".join(f"{name:>24}  {value}" for name, value in report.items()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench chain", description=__doc__)
    parser.add_argument(
        "--database", help="a scratch database by URL; without it, an embedded one in a temporary folder"
    )
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--inflight", type=int, default=50)
    parser.add_argument("--no-views", action="store_true", help="without the projections, to see what they cost")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())

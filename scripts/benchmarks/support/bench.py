"""What the benchmarks of the node share: an application on a scratch database, its arguments, its one line of JSON."""

import argparse
import json
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog

import perdure
from perdure.collector import spare_collector
from perdure_eventstore.session import Session


def arguments(verb: str, doc: str | None, **numbers: int) -> argparse.Namespace:
    """``--database``, ``--json``, and an option for each of ``numbers`` with its default."""
    parser = argparse.ArgumentParser(prog=f"scripts/bench {verb}", description=doc)
    parser.add_argument(
        "--database", help="a scratch database by URL; without it, an embedded one in a temporary folder"
    )
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser.parse_args()


@asynccontextmanager
async def scratch(database: str | None, **settings: Any) -> AsyncIterator[perdure.App]:
    """An application with one task type, ``noop``, on a database that is nobody's; as ``perdure up`` runs one."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        url = database or f"embedded:{folder}/database"
        app = perdure.App(url, settings=perdure.Settings(**settings) if settings else None)

        @app.task("noop")
        async def noop(i: int = 0) -> dict[str, object]:
            return {"status": "ok", "id": i}

        spare_collector()
        yield app


async def fetch(app: perdure.App, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
    """The rows of a statement, on a connection of its own."""
    session = Session(app.database)
    try:
        return await session.fetch(statement, parameters)
    finally:
        await session.close()


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begun


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def say(options: argparse.Namespace, **figures: object) -> None:
    """One line of JSON, or one line a figure."""
    report = {"peer": "perdure", **figures}
    if options.json:
        print(json.dumps(report))
    else:
        print("\n".join(f"{name:>32}  {value}" for name, value in report.items()))

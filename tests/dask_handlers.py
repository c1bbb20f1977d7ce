"""Handlers that the workers of tests/dask_cluster.py import."""

import os
import time
from pathlib import Path
from typing import Any, NoReturn

import perdure


def work(task: perdure.Task, notes: str, seconds: float = 0.0) -> dict[str, Any]:
    """Note who was called; then take ``seconds``, or go on for ever while ``notes`` has a neighbour called hang."""
    with Path(notes).open("a") as file:
        file.write(f"{task.task_id} {task.attempt} {os.getpid()}\n")
    time.sleep(seconds)
    while Path(notes).with_name("hang").exists() and not task.is_cancelled:
        time.sleep(0.02)
    return {"key": task.idempotency_key, "told": task.is_cancelled}


def large(megabytes: int) -> str:
    return "x" * (megabytes * 1024 * 1024)


class Unusual(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def fail(how: str) -> NoReturn:
    match how:
        case "no retry":
            raise perdure.NoRetry("never again")
        case "unusual":
            raise Unusual(1, 2)
        case "exit":
            raise SystemExit(3)
        case _:
            os._exit(7)


def unpicklable() -> Any:
    return (n for n in range(3))


class Elsewhere:
    """Cannot be read on a worker."""

    def __reduce__(self) -> Any:
        return _imported, ("no_such_module_here",)


def _imported(name: str) -> Any:
    return __import__(name)

"""The definitions that the demo runs, and the handlers of its own task types."""

import asyncio
from pathlib import Path
from typing import Any

import perdure

REPORT: dict[str, Any] = {
    "workflow_id": "nightly_report",
    "description": "The demo's own: `count` takes long enough to be killed in the middle.",
    "tasks": [
        {
            "task_id": "collect",
            "type": "demo.collect",
            "inputs": {"shop": "{{shop}}"},
            "triggers": ["night_came"],
        },
        {
            "task_id": "count",
            "type": "demo.count",
            "inputs": {"orders": "{{tasks.collect.output.orders}}"},
            "depends_on": ["collect"],
        },
        {
            "task_id": "send_report",
            "type": "email",
            "inputs": {"to": "{{email}}", "total": "{{tasks.count.output.total}}"},
            "depends_on": ["count"],
        },
    ],
}
COUNT_SECONDS = 2.5


def example(name: str) -> bytes:
    """One of the definitions in examples/, which a wheel carries inside the package."""
    package = Path(__file__).parent.parent
    shipped = package / "examples" / name
    return (shipped if shipped.exists() else package.parent / "examples" / name).read_bytes()


def add_tasks(app: "perdure.App") -> None:
    """Give ``app`` the demo's task types."""

    @app.task("demo.collect")
    async def collect(shop: str) -> dict[str, list[int]]:
        return {"orders": [len(shop), 30, 7]}

    @app.task("demo.count")
    async def count(orders: list[int]) -> dict[str, int]:
        await asyncio.sleep(COUNT_SECONDS)
        return {"total": sum(orders)}

"""Every example is a definition the built-in task types can run, and the order takes both of its ways."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

import perdure
from perdure_engine.definitions.compile import compile_definition
from perdure_engine.definitions.definition import Definition
from perdure_engine.definitions.document import read_document
from perdure_engine.run import RunState, advance, new_run
from perdure_engine.run import commands as c

EXAMPLES = sorted(
    path for path in (Path(__file__).parents[2] / "examples").iterdir() if path.suffix in (".json", ".yaml")
)
AT = datetime(2026, 1, 1, tzinfo=UTC)
NODE = UUID(int=1)
ORDER = {
    "order_id": "A-7",
    "total": 60,
    "lines": [{"sku": "lamp", "count": 2}],
    "customer": {"email": "ada@example.org", "country": "GB", "address": "12 St James's Square, London"},
}
OUTPUTS = {
    "reserve_stock": {"status": 201, "headers": {}, "body": {"id": "r-1"}},
    "ship": {"status": 200, "headers": {}, "body": {"tracking_number": "T-99"}},
}


def compiled(path: Path) -> Definition:
    types = perdure.App("embedded:unused").types.schemas()
    return compile_definition(read_document(path.read_bytes()), known_types=types)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_registers_without_a_warning(path: Path) -> None:
    assert compiled(path).warnings == ()


class Story:
    """A run of the order, its tasks done as they become ready."""

    def __init__(self) -> None:
        definition = compiled(next(path for path in EXAMPLES if path.name == "order.yaml"))
        self.state: RunState = new_run(definition, uuid4())
        self.failing: set[str] = set()
        self.tell(c.StartRun(at=AT, input=perdure.Json.of(ORDER), event="order_placed", key="A-7"))

    def tell(self, command: c.RunCommand) -> None:
        self.state = advance(self.state, command)[1]
        while ready := [id_ for id_, task in self.state.tasks.items() if task.status == "scheduled"]:
            for id_ in ready:
                self.state = advance(self.state, c.BeginAttempt(task_id=id_, node=NODE))[1]
                self.state = advance(self.state, self._end(id_, self.state.task(id_).attempt))[1]

    def _end(self, task_id: str, attempt: int) -> c.RunCommand:
        if task_id in self.failing:
            return c.FailAttempt(at=AT, task_id=task_id, attempt=attempt, error=perdure.Json.of({"message": "no"}))
        output = perdure.Json.of(OUTPUTS.get(task_id, {}))
        return c.CompleteAttempt(at=AT, task_id=task_id, attempt=attempt, output=output)

    def pay(self, amount: int) -> None:
        payload = perdure.Json.of({"order_id": "A-7", "amount": amount})
        self.tell(c.ReceiveEvent(at=AT, event="payment_received", event_id=uuid4(), payload=payload))

    def day_passes(self) -> None:
        (wait,) = [trigger for trigger in self.state.live_waits]
        self.tell(c.FireTimer(at=AT, kind="wait", trigger=wait))

    @property
    def statuses(self) -> dict[str, Any]:
        return {id_: self.state.task(id_).status for id_ in self.state.definition.tasks}


def test_a_paid_order_is_shipped() -> None:
    story = Story()
    story.pay(10)
    assert not story.state.is_ended, "too little was paid"
    story.pay(60)
    assert story.state.status == "completed"
    assert story.state.result().value == {"order_id": "A-7", "tracking_number": "T-99", "confirmed": True}
    assert story.statuses["check_address"] == "skipped"


def test_an_unpaid_order_gives_its_stock_back() -> None:
    story = Story()
    story.day_passes()
    assert story.state.status == "completed"
    assert story.state.result().value == {"order_id": "A-7", "tracking_number": None, "confirmed": False}
    assert story.statuses["release_stock"] == "completed"


def test_a_failed_shipment_is_handled_by_the_apology() -> None:
    story = Story()
    story.failing.add("ship")
    story.pay(60)
    assert (story.state.status, story.statuses["apologise"]) == ("completed", "completed")

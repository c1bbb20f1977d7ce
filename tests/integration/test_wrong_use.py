"""Wrong use of the face: one clear error for the caller, and nothing is recorded."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest

import perdure
from perdure_engine.errors import TaskTypeRefused

wrong: Any = "zzz"
number: Any = 5


@pytest.mark.parametrize(
    "use",
    [
        lambda app: app.publish("x", event_id=wrong),
        lambda app: app.publish("x", run=number),
        lambda app: app.publish("x", key=number),
        lambda app: app.publish(number),
        lambda app: app.start("w", run_id=wrong),
        lambda app: app.run(wrong).status(),
        lambda app: app.publish("x", perdure.Json(b'"\\u0000"')),
        lambda app: app.publish("x", perdure.Json(b"NaN")),
        lambda app: app.publish("x", perdure.Json(b'1,"name":"x"')),
    ],
)
async def test_what_is_wrong_is_refused_for_its_caller_alone(
    database_url: str, use: Callable[[perdure.App], Awaitable[object]]
) -> None:
    async with perdure.App(database_url) as app:
        with pytest.raises(ValueError, match=r"not|U\+0000|NaN"):
            await use(app)
        with psycopg.connect(database_url) as connection:
            assert connection.execute("select count(*) from perdure.events").fetchone() == (0,)
        assert (await app.publish("x", event_id=uuid4())).position


@pytest.mark.parametrize("policy", [{"attempts": "x"}, {"attempts": 0}, {"initial": float("inf")}, {"jitter": -5}])
def test_a_retry_policy_that_means_nothing_is_refused(policy: dict[str, Any]) -> None:
    app = perdure.App("embedded:.perdure")
    with pytest.raises(TaskTypeRefused, match="retry policy"):
        app.task("t", retry=perdure.Retry(**policy))(lambda: None)


async def test_rule_23_a_client_may_register_the_types_that_a_running_node_announces(database_url: str) -> None:
    worker, client = perdure.App(database_url), perdure.App(database_url)
    worker.task("announced")(lambda: None)
    document = {"workflow_id": "w", "tasks": [{"task_id": "a", "type": "announced", "triggers": []}]}
    async with client:
        with pytest.raises(perdure.DefinitionRefused):
            await client.register(document)
        async with worker.node(views=False):
            assert (await client.register(document)).created

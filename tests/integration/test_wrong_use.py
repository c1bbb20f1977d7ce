"""Wrong use of the face: one clear error for the caller, and nothing is recorded."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

import perdure
from perdure_engine.errors import TaskTypeRefused

wrong: Any = "zzz"
number: Any = 5
nothing: Any = None
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
long = "x" * 2_000_000


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


@pytest.mark.parametrize(
    ("use", "why"),
    [
        (lambda app, run: app.cancel(nothing), "run_id is a uuid.UUID, not None"),
        (lambda app, run: app.pause(number), "run_id is a uuid.UUID, not 5"),
        (lambda app, run: app.erase(nothing), "run_id is a uuid.UUID, not None"),
        (lambda app, run: app.run(nothing).status(), "run_id is a uuid.UUID, not None"),
        (lambda app, run: app.cancel(run, number), "a reason is text of at most 1,000 characters, not 5"),
        (
            lambda app, run: app.pause(run, "\ud800"),
            r"a reason is text of at most 1,000 characters; in this one, .*surrogate",
        ),
        (
            lambda app, run: app.resume(run, "a\0b"),
            r"a reason is text of at most 1,000 characters; in this one, U\+0000",
        ),
        (lambda app, run: app.cancel(run, long), "a reason is text of at most 1,000 characters, not 2,000,000"),
        (
            lambda app, run: app.pause_schedule("nightly", nothing),
            "a reason is text of at most 1,000 characters, not None",
        ),
        (
            lambda app, run: app.pause_schedule("nightly", "\ud800"),
            "a reason is text of at most 1,000 characters; in this one,",
        ),
        (lambda app, run: app.pause_schedule("nightly", long), "a reason is text of at most 1,000 characters"),
        (
            lambda app, run: app.erase(run, reason=number),
            "the reason of an erasure is text of at most 1,000 characters, not 5",
        ),
        (
            lambda app, run: app.erase(run, actor="\0"),
            "the actor of an erasure is text of at most 1,000 characters; in this one,",
        ),
        (lambda app, run: app.backfill("nightly", FIRST, LAST), "a backfill's start is a time from 1970 to 9999"),
        (lambda app, run: app.backfill("nightly", LAST, LAST), "the backfill ends at 9999-12-31.*what is to come"),
    ],
)
async def test_a_command_that_cannot_be_recorded_is_refused_in_one_sentence_and_records_nothing(
    database_url: str, use: Callable[[perdure.App, UUID], Awaitable[object]], why: str
) -> None:
    async with perdure.App(database_url) as app:
        await app.register({"workflow_id": "w", "tasks": [{"task_id": "a", "type": "wait", "triggers": []}]},
                           allow_unknown_types=True)  # fmt: skip
        run = await app.start("w")
        await app.schedule("nightly", "w", cron="0 3 * * *")
        count = "select (select count(*) from perdure.events), (select count(*) from perdure.inbox)"
        with psycopg.connect(database_url) as connection:
            before = connection.execute(count).fetchone()
            with pytest.raises(ValueError, match=why) as refused:
                await use(app, run.run_id)
            assert connection.execute(count).fetchone() == before
    assert len(str(refused.value)) < 300


async def test_a_blocking_client_refuses_the_same(database_url: str) -> None:
    with perdure.App(database_url).blocking() as client:
        for use in (client.cancel, client.pause, client.resume, client.run):
            with pytest.raises(perdure.StartRefused, match=r"run_id is a uuid\.UUID, not None"):
                use(nothing)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"timeout": "5"}, "the timeout of t is a number of seconds above 0 and at most .*, or None, not '5'"),
        ({"timeout": float("nan")}, "the timeout of t is a number of seconds .* not nan"),
        ({"timeout": 1e300}, r"the timeout of t is a number of seconds .* not 1e\+300"),
        ({"heartbeat": "30s"}, "the heartbeat of t is a number of seconds .* not '30s'"),
        ({"heartbeat": float("inf")}, "the heartbeat of t is a number of seconds .* not inf"),
        ({"heartbeat": -1}, "the heartbeat of t is a number of seconds .* not -1"),
        ({"heartbeat": True}, "the heartbeat of t is a number of seconds .* not True"),
        ({"retry": 3}, r"the retry policy of t: it is a perdure.Retry, such as Retry\(attempts=3\), not 3"),
        ({"name": 5}, "the name of a task type is 1 to 256 printable characters, not 5"),
        ({"name": "bad\0"}, "the name of a task type is 1 to 256 printable characters, not"),
        ({"name": "\ud800"}, "the name of a task type is 1 to 256 printable characters, not"),
        ({"name": ""}, "the name of a task type is 1 to 256 printable characters, not ''"),
        ({"name": long}, "the name of a task type is 1 to 256 printable characters, not 'xxx"),
        ({"delivery": long}, "the delivery of t is at_least_once or at_most_once, not 'xxx"),
    ],
)
def test_an_option_of_a_task_type_that_means_nothing_is_refused(given: dict[str, Any], why: str) -> None:
    app = perdure.App("embedded:.perdure")
    before = app.types.names()
    with pytest.raises(TaskTypeRefused, match=why) as refused:
        app.task(**{"name": "t", **given})(lambda: None)
    assert len(str(refused.value)) < 300
    assert app.types.names() == before


def test_a_task_decorator_without_brackets_is_refused_where_it_stands() -> None:
    bare: Any = perdure.App("embedded:.perdure").task

    def greet() -> None: ...

    with pytest.raises(TaskTypeRefused, match=r"above greet there are none: write @app\.task\(\)"):
        bare(greet)

"""Logs with every shape of run, for the tests of the doctor."""

import asyncio
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from applications import new_app, task, until, workflow
from logs import rows

import perdure
from perdure_engine.doctor.doctor import Diagnosis

SIMPLE = workflow("simple", task("only", "begun"), deadline="1d")
RETRIED = workflow("retried", task("shaky", "tried", type="shaky", retry={"attempts": 3, "initial": 3600, "jitter": 0}))
WAITING = workflow(
    "waiting", task("first", "asked"), task("second", {"event": "answered", "within": "1h"}),
    task("third", "allowed"), start=["asked"],
)  # fmt: skip
KEYED = workflow("keyed", task("one", "opened"), task("two", "closed"), key="{{account}}", start=["opened"])
SLOW = workflow("slow", task("long", "slowly", type="sleep"))
HASTY = workflow(
    "hasty", task("first", "hurried"), task("second", {"event": "never", "within": 0.3}), start=["hurried"],
    deadline="5s",
)  # fmt: skip
QUICK = workflow("quick", task("one", "quick"), task("two", "one.completed"))
STUMBLING = workflow(
    "stumbling", task("it", "stumbled", type="shaky", retry={"attempts": 3, "initial": 0.1, "jitter": 0})
)
FORKED = workflow(
    "forked", task("begin"), task("either", "hither", {"event": "thither", "within": 0.5}),
    task("rest", "onward"), start=[],
)  # fmt: skip


def app_of(url: str, **settings: Any) -> perdure.App:
    app = new_app(url, **settings)

    @app.task()
    async def work(task: perdure.Task) -> str:
        return str(uuid4())

    @app.task()
    async def shaky(task: perdure.Task) -> str:
        raise RuntimeError("as it always does")

    @app.task()
    async def sleep(task: perdure.Task) -> None:
        await asyncio.sleep(60)

    return app


class Log(NamedTuple):
    """A log with every shape of run, and no node at work."""

    url: str
    runs: dict[str, UUID]
    events: dict[str, UUID]


async def fill(url: str, **settings: Any) -> Log:
    runs, events = dict[str, UUID](), dict[str, UUID]()
    async with app_of(url, **settings).node(views=False) as app:
        for document in (SIMPLE, RETRIED, WAITING, KEYED, SLOW, workflow("old", task("it", "ancient"))):
            await app.register(document)
        await app.register(SIMPLE | {"deadline": "2d"})
        await app.retire("old")
        given = {"opened": {"account": "a"}}
        for name, event in (
            ("ended", "begun"), ("retried", "tried"), ("waiting", "asked"), ("keyed", "opened"), ("slow", "slowly"),
        ):  # fmt: skip
            published = await app.publish(event, given.get(event))
            (run,) = await published.runs()
            runs[name], events[name] = run.run_id, published.event_id
        await app.run(runs["ended"]).result(timeout=10)
        runs["direct"] = (await app.start("waiting")).run_id
        runs["stopped"] = (await app.start("waiting")).run_id
        await app.cancel(runs["stopped"])
        allowed = await app.publish("allowed", run=runs["waiting"])
        assert await allowed.runs()
        events["allowed"] = allowed.event_id
        await until(lambda: rows(url, "select from perdure.timers where timer = 'retry:shaky'"))
        await until(lambda: not rows(url, "select from perdure.inbox"))
        await until(lambda: len(rows(url, "select from perdure.open_runs")) == 5)
    # Not a node in sight, and one event waits for it.
    async with app_of(url, **settings) as app:
        for name in ("backfilled", "paused", "gone"):
            await app.schedule(name, "waiting", cron="30 2 * * *", timezone="Europe/Berlin", input={"account": "a"})
        await app.backfill("backfilled", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 5, tzinfo=UTC))
        await app.pause_schedule("paused", "an audit")
        await app.delete_schedule("gone")
        events["unrouted"] = (await app.publish("begun")).event_id
    return Log(url, runs, events)


async def doctor(url: str, *, repair: bool = False, **settings: Any) -> Diagnosis:
    async with app_of(url, **settings) as app:
        return await app.doctor(repair=repair)


def working_set(url: str) -> dict[str, list[str]]:
    columns = {
        "open_runs": "run, shard, workflow_id, key, started_at, paused, parked",
        "timers": "run, timer, shard, due, held",
        "waits": "run, trigger, event, key, armed_at",
        "assignments": "run, task_id, attempt, node",
        "permits": "key, run, task_id",
        "definitions": "workflow_id, number, digest, document, events, keyed, registered_at, retired_at",
        "inbox": "run, shard, kind, event",
        "router": "position",
        "shards": "shard",
        "staged": "stream",
        "schedules": "schedule, shard, name, workflow_id, cron, timezone, overlap, catch_up, set_by, paused, next_due,"
        " last_due, last_run, waiting::text, has_more",
    }
    return {
        table: sorted(map(repr, rows(url, f"select {wanted} from perdure.{table}{_BUT_COMMANDS.get(table, '')}")))
        for table, wanted in columns.items()
    }


_BUT_COMMANDS = {"inbox": " where kind = 'event'"}

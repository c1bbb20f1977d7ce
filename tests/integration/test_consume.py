"""``App.consume``: batches of events, each exactly once in what is written; and where a subscription begins."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from applications import new_app, task, workflow
from logs import execute, rows, until
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import perdure
from perdure_engine.errors import TransactionIsOurs
from perdure_eventstore.errors import SubscriptionRefused

pytestmark = pytest.mark.every_postgres


class Base(DeclarativeBase): ...


class Heard(Base):
    __tablename__ = "heard"
    __table_args__ = {"schema": "public"}  # noqa: RUF012
    id: Mapped[int] = mapped_column(primary_key=True)
    payload: Mapped[int]


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[perdure.App]:
    execute(database_url, "create table public.heard (id bigint primary key, payload bigint not null)")
    yield new_app(database_url)


def heard(url: str) -> list[int]:
    return [payload for (payload,) in rows(url, "select payload from public.heard order by id")]


async def write(events: list[perdure.Event], connection: AsyncConnection) -> None:
    entries = [{"id": event.position, "payload": event.payload} for event in events]
    await connection.execute(text("insert into public.heard values (:id, :payload)"), entries)


async def add(events: list[perdure.Event], session: AsyncSession) -> None:
    session.add_all(Heard(id=event.position, payload=event.payload) for event in events)


@pytest.mark.parametrize("consumer", [write, add], ids=["connection", "session"])
@pytest.mark.parametrize("parts", [1, 4])
async def test_each_published_event_is_consumed_once_also_by_the_next_process(
    app: perdure.App, database_url: str, consumer: Any, parts: int
) -> None:
    app.consume("heard", "data_ready", parts=parts, consumers=2, batch=3, start="beginning")(consumer)
    async with new_app(database_url) as client:
        for round_ in range(2):
            for n in range(10):
                await client.publish("data_ready", round_ * 10 + n)
                await client.publish("other", -1)
            async with app:
                await until(lambda count=round_ * 10 + 10: len(heard(database_url)) == count)
    assert sorted(heard(database_url)) == list(range(20))


async def test_a_consumer_may_not_commit_and_what_it_wrote_is_undone(app: perdure.App, database_url: str) -> None:
    stubborn = True

    @app.consume("heard", "data_ready", start="beginning")
    async def consume(events: list[perdure.Event], connection: AsyncConnection) -> None:
        await write(events, connection)
        if stubborn:
            await connection.commit()

    with structlog.testing.capture_logs() as lines:
        async with app:
            await app.publish("data_ready", 1)
            await until(lambda: sum(line.get("subscription") == "heard" for line in lines) >= 2)
            assert heard(database_url) == []
            stubborn = False
            await until(lambda: heard(database_url) == [1])
    refused = next(line["exc_info"] for line in lines if line.get("subscription") == "heard")
    assert isinstance(refused, TransactionIsOurs)
    assert str(refused) == (
        "a consumer may not commit: the engine commits its work together with its checkpoint; "
        "use begin_nested() for a part that may fail"
    )


async def test_a_savepoint_undoes_what_may_fail(app: perdure.App, database_url: str) -> None:
    @app.consume("heard", "data_ready", start="beginning")
    async def consume(events: list[perdure.Event], connection: AsyncConnection) -> None:
        await write(events, connection)
        savepoint = await connection.begin_nested()
        await connection.execute(text("insert into public.heard values (0, 0)"))
        await savepoint.rollback()

    async with app:
        await app.publish("data_ready", 1)
        await until(lambda: heard(database_url))
    assert heard(database_url) == [1]


async def test_kinds_of_stream_are_told_apart(app: perdure.App, database_url: str) -> None:
    names: dict[Any, list[str]] = {kind: [] for kind in ("run", "event", "definition", None)}

    def note(kind: Any) -> None:
        @app.consume(f"consumes {kind}", kind=kind, start="beginning")
        async def consume(events: list[perdure.Event]) -> None:
            names[kind] += [event.name for event in events]

        @app.subscribe(f"subscribes {kind}", kind=kind, start="beginning")
        def subscribe(event: perdure.Event) -> None:
            heard_by_one[kind].append(event.name)
            assert (event.run_id is not None) == (event.name.startswith(("run_", "task_")))

    heard_by_one: dict[Any, list[str]] = {kind: [] for kind in names}
    for kind in names:
        note(kind)

    @app.task("work")
    async def work() -> None: ...

    async with app.node():
        await app.register(workflow("w", task("a", "data_ready")))
        (run,) = await (await app.publish("data_ready")).runs()
        await run.result(timeout=20)
        everything = rows(database_url, "select count(*) from perdure.events")[0][0]
        await until(lambda: len(names[None]) == len(heard_by_one[None]) == everything)
        await until(lambda: len(names["run"]) == len(heard_by_one["run"]) == everything - 3)
    assert names == heard_by_one
    assert names["definition"] == ["definition_registered"]
    assert names["event"] == ["data_ready", "event_routed"]
    assert names["run"] == ["run_started", "task_scheduled", "task_started", "task_completed", "run_completed"]
    assert sorted(names[None]) == sorted(names["definition"] + names["event"] + names["run"])


async def test_a_subscription_begins_where_it_is_told(app: perdure.App) -> None:
    found: dict[str, list[int]] = {"position": [], "beginning": [], "from_start": [], "now": []}
    async with app:
        published = [await app.publish("data_ready", n) for n in range(4)]
        starts: dict[str, dict[str, Any]] = {
            "position": {"start": published[1].position},
            "beginning": {"start": "beginning"},
            "from_start": {"from_start": True},
            "now": {},
        }
        for name, options in starts.items():
            app.subscribe(name, "data_ready", **options)(
                lambda event, name=name: found[name].append(event.payload)  # type: ignore[misc]
            )
        await until(lambda: len(found["position"]) == 2 and len(found["beginning"]) == len(found["from_start"]) == 4)
        await asyncio.sleep(0.2)
        await app.publish("data_ready", 4)
        await until(lambda: all(4 in each for each in found.values()))
    assert found == {"position": [2, 3, 4], "beginning": [*range(5)], "from_start": [*range(5)], "now": [4]}


async def test_what_is_added_while_the_app_connects_begins_once(database_url: str) -> None:
    calls: list[int] = []

    class Lifespan:
        def __init__(self, app: perdure.App) -> None:
            app.on("data_ready")(lambda event: calls.append(event.payload))

        async def __aenter__(self) -> None: ...
        async def __aexit__(self, *_: object) -> None: ...

    settings = perdure.Settings(poll=0.1)
    async with perdure.App(database_url, settings=settings, lifespan=Lifespan) as app:
        await asyncio.sleep(0.3)
        await app.publish("data_ready", 1)
        await until(lambda: calls)
        await asyncio.sleep(0.3)
    assert calls == [1]


async def test_a_subscription_is_divided_anew_by_the_app_that_consumes_it(app: perdure.App, database_url: str) -> None:
    app.consume("heard", "data_ready", parts=2, start="beginning")(write)
    async with app:
        for n in range(10):
            await app.publish("data_ready", n)
        await until(lambda: len(heard(database_url)) == 10)
    later = new_app(database_url)
    later.consume("heard", "data_ready", parts=6)(write)
    async with later:
        await later.repartition("heard")
        for n in range(10, 20):
            await later.publish("data_ready", n)
        await until(lambda: len(heard(database_url)) == 20, 20)
        with pytest.raises(SubscriptionRefused, match="this app does not consume 'other'; it consumes heard"):
            await later.repartition("other")
    assert rows(database_url, "select distinct parts from perdure.subscriptions") == [(6,)]
    assert sorted(heard(database_url)) == list(range(20))


async def test_one_that_is_divided_is_refused_to_a_listener(app: perdure.App, database_url: str) -> None:
    app.consume("heard", "data_ready", parts=2)(write)
    async with app:
        await until(lambda: rows(database_url, "select from perdure.subscriptions"))
        with structlog.testing.capture_logs() as lines:
            app.subscribe("heard", "data_ready")(lambda event: None)
            await until(lambda: any("exc_info" in line for line in lines))
    line = next(line for line in lines if "exc_info" in line)
    assert line["event"] == "part of the application broke off, it begins anew"


async def test_what_a_subscription_was_a_consumer_goes_on_with(app: perdure.App, database_url: str) -> None:
    positions: list[int] = []
    app.subscribe("heard", "data_ready", start="beginning")(lambda event: positions.append(event.position))
    async with app:
        last = [await app.publish("data_ready", n) for n in range(3)][-1]
        saved = "select position from perdure.subscriptions"
        await until(lambda: rows(database_url, saved) == [(last.position,)])
    later = new_app(database_url)
    later.consume("heard", "data_ready", start="beginning")(write)
    async with later:
        await later.publish("data_ready", 3)
        await until(lambda: heard(database_url))
    assert heard(database_url) == [3]

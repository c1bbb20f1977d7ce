"""The router by itself: whose turn it is, what it may do twice, and what must not stop it. No node runs here."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from applications import task, workflow
from logs import event, opened, rows, running
from sqlalchemy.ext.asyncio import AsyncEngine

import perdure_engine.router as router_module
from perdure_engine.definitions.definition import Definition
from perdure_engine.facts import EventPublished, EventRouted, Fact, decode_fact, encode_fact
from perdure_engine.identity import run_for_event
from perdure_engine.registry import Registry
from perdure_engine.router import Router
from perdure_engine.run import new_run
from perdure_engine.run.commands import StartRun
from perdure_engine.run.state import Occurrence
from perdure_engine.starting import StartOrder, append_start
from perdure_engine.upcasting import NewerEvent
from perdure_engine.work import WorkStatement
from perdure_eventstore.append import Append
from perdure_eventstore.appender import Appender
from perdure_eventstore.door import Json
from perdure_eventstore.events import NO_STREAM, NewEvent
from perdure_eventstore.feed import Feed
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

CAME = {"event": "came", "within": "1h"}
ONE = workflow("one", task("a", "began"))


def keyed(key: str, *waits: Any) -> dict[str, Any]:
    """Version by version of one workflow: a run a ``key`` of the payload, which waits for ``waits``."""
    return workflow(
        "keyed", task("a", "began"), *[task("b", {"all": ["a.completed", wait]}) for wait in waits], key=key
    )


class World:
    """A log, and routers over it. A run is open from its start until the test ends it."""

    def __init__(self, url: str, engine: AsyncEngine, appender: Appender) -> None:
        self.url, self.engine, self.appender = url, engine, appender
        self.session = Session(engine)
        self.reader = Reader(self.session)
        self.registry = Registry(self.session, appender)
        self.feed = Feed(engine, interval=0.01)

    def router(self, may_route: Callable[[], bool] = lambda: True) -> Router:
        return Router(
            self.session, self.appender, self.registry, self.feed, "perdure", self.start, lambda: None, may_route
        )  # fmt: skip

    async def start(self, order: StartOrder) -> bool:
        command = StartRun(
            at=datetime.now(UTC), input=order.event.payload, event=order.event.name, event_id=order.event.id,
            key=order.key,
        )  # fmt: skip
        return await append_start(self.appender, new_run(order.definition, order.run), command, order.armed_at)

    async def append(self, event: NewEvent, stream: UUID | None = None) -> UUID:
        stream = stream or uuid4()
        await self.appender.append(Append(stream, NO_STREAM, [event]))
        return stream

    async def publish(self, name: str, **payload: Any) -> UUID:
        return await self.append(encode_fact(EventPublished(name=name, payload=Json.of(payload))))

    async def route(self, router: Router | None = None) -> None:
        """Have ``router``, or a new one, route all there is."""
        await (router or self.router()).run_once(rows(self.url, "select max(position) from perdure.events")[0][0])

    async def routed(self, published: UUID) -> list[EventRouted]:
        return [decode_fact(each) async for each in self.reader.stream(published) if each.type == "EventRouted"]

    async def outcomes(self, published: UUID) -> list[tuple[str, UUID | None]]:
        (routed,) = await self.routed(published)
        return [(match.outcome, match.run) for match in routed.matches]

    async def end(self, run: UUID) -> None:
        """The run is open no more."""
        await self.appender.append(Append(uuid4(), NO_STREAM, [event()], {"closed": [{"run": run}]}))

    def forget_routed(self) -> None:
        """As if the router had died before it saved where it was."""
        rows(self.url, "update perdure.router set position = 0 returning position")


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with opened(database_url) as engine, running(engine, statement=WorkStatement()) as appender:
        world = World(database_url, engine, appender)
        yield world
        await world.session.close()


@asynccontextmanager
async def at_work(*duties: Any) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(duty) for duty in duties]
    try:
        yield
    finally:
        for each in tasks:
            each.cancel()
            with suppress(asyncio.CancelledError):
                await each


async def test_it_routes_while_it_is_its_turn_and_goes_on_where_the_other_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_module, "_LOOK", 0.01)
    turn = "first"
    first, second = world.router(lambda: turn == "first"), world.router(lambda: turn == "second")
    by: list[str] = []
    for name, router in (("first", first), ("second", second)):
        monkeypatch.setattr(router, "_route", _noting(by, name, router._route))

    async def next_event() -> None:
        published = await world.publish("unheard_of")
        async with asyncio.timeout(5):
            while not await world.routed(published):
                await asyncio.sleep(0.01)

    async with at_work(world.feed.run(), first.run(), second.run()):
        await next_event()
        turn = "nobody"
        await asyncio.sleep(0.1)
        waiting = await world.publish("unheard_of")
        await asyncio.sleep(0.1)
        assert not await world.routed(waiting)
        turn = "second"
        await next_event()
        turn = "first"
        # What the second saved is read: the first does not go through its events again.
        await asyncio.sleep(0.1)
        await next_event()
    assert by[0] == by[-1] == "first"
    assert len(by) <= 4


def _noting(by: list[str], name: str, route: Any) -> Any:
    async def noting(events: Any) -> None:
        by.append(name)
        await route(events)

    return noting


async def test_two_routers_at_once_do_no_harm(world: World) -> None:
    await world.registry.register(ONE)
    await world.registry.register(keyed("{{event.payload.id}}"))
    published = [await world.publish("began", id=n % 3) for n in range(30)]
    await asyncio.gather(*(world.route() for _ in range(3)))
    for each in published:
        outcomes = await world.outcomes(each)
        assert len(outcomes) == 2
        assert ("started", run_for_event(each, "one")) in outcomes
    assert rows(world.url, "select workflow_id, count(*)::int from perdure.open_runs group by 1 order by 1") == [
        ("keyed", 3), ("one", 30),
    ]  # fmt: skip
    assert rows(world.url, "select count(*)::int from perdure.inbox where kind = 'event'") == [(27,)]


async def test_an_event_that_is_routed_starts_nothing_when_it_is_met_again(world: World) -> None:
    await world.registry.register(keyed("{{event.payload.id}}"))
    first = await world.publish("began", id=1)
    second = await world.publish("began", id=1)
    await world.route()
    run = run_for_event(first, "keyed")
    assert await world.outcomes(second) == [("delivered", run)]
    await world.end(run)
    world.forget_routed()
    await world.route()
    assert await world.outcomes(second) == [("delivered", run)]
    assert rows(world.url, "select from perdure.open_runs") == []


@pytest.mark.parametrize("definition", [ONE, keyed("{{event.payload.id}}")], ids=["unkeyed", "keyed"])
async def test_an_event_whose_run_started_before_its_router_died_has_started_it(
    world: World, definition: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.registry.register(definition)
    first = await world.publish("began", id=1)
    dying = world.router()

    async def die(*_: Any) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(dying, "_record", die)
    with pytest.raises(asyncio.CancelledError):
        await world.route(dying)
    run = run_for_event(first, definition["workflow_id"])
    assert not await world.routed(first)
    # Meanwhile it ended, and its key is another run's.
    await world.end(run)
    other = StartOrder(
        uuid4(), await _active(world, definition["workflow_id"]), _occurrence(), 0, "1"
    )  # fmt: skip
    assert await world.start(other)
    await world.route()
    assert await world.outcomes(first) == [("started", run)]


async def _active(world: World, workflow_id: str) -> Definition:
    return await world.registry.definition((await world.registry.active(workflow_id)).digest)


def _occurrence() -> Occurrence:
    return Occurrence("began", Json.of({"id": 1}), uuid4(), None)


async def test_a_keyed_run_gets_its_events_after_its_version_was_replaced_and_after_it_was_retired(
    world: World,
) -> None:
    await world.registry.register(keyed("{{event.payload.old}}", CAME))
    entry = await world.publish("began", old="x")
    await world.registry.register(keyed("{{event.payload.new}}"))
    came = await world.publish("came", old="x", new="y")
    strange = await world.publish("came", old="z")
    await world.registry.retire("keyed")
    late = await world.publish("came", old="x")
    ended = await world.publish("began", new="x")
    await world.route()
    run = run_for_event(entry, "keyed")
    assert await world.outcomes(came) == [("delivered", run)]
    assert await world.outcomes(late) == [("delivered", run)]
    assert await world.outcomes(strange) == []
    assert await world.outcomes(ended) == []


async def test_a_run_gets_no_event_by_the_key_of_another_version(world: World) -> None:
    await world.registry.register(keyed("{{event.payload.old}}", CAME))
    await world.registry.register(keyed("{{event.payload.new}}", CAME))
    entry = await world.publish("began", new="x")
    by_old = await world.publish("came", old="x", new="y")
    by_new = await world.publish("came", old="y", new="x")
    # The active version's key is the workflow's: there is one open run of it, whatever its version.
    again = await world.publish("began", old="y", new="x")
    await world.route()
    run = run_for_event(entry, "keyed")
    assert await world.outcomes(entry) == [("started", run)]
    assert await world.outcomes(by_old) == []
    assert await world.outcomes(by_new) == [("delivered", run)]
    assert await world.outcomes(again) == [("delivered", run)]


async def test_an_unkeyed_version_leaves_the_keyed_runs_of_the_one_before_their_events(world: World) -> None:
    await world.registry.register(keyed("{{event.payload.id}}", CAME))
    entry = await world.publish("began", id="x")
    await world.registry.register(workflow("keyed", task("a", "began"), task("b", {"all": ["a.completed", CAME]})))
    came = await world.publish("came", id="x")
    began = await world.publish("began", id="x")
    await world.route()
    old, new = run_for_event(entry, "keyed"), run_for_event(began, "keyed")
    assert await world.outcomes(came) == [("delivered", old)]
    assert await world.outcomes(began) == [("delivered", old), ("started", new)]


async def test_an_event_that_cannot_be_read_stops_no_other(world: World) -> None:
    await world.registry.register(ONE)
    broken = await world.append(NewEvent("EventPublished", data=b'{"name": 5}'))
    sound = await world.publish("began")
    await world.route()
    assert await world.outcomes(sound) == [("started", run_for_event(sound, "one"))]
    (routed,) = await world.routed(broken)
    assert routed.reason.startswith("it cannot be read: ")


async def test_a_workflow_that_cannot_be_matched_stops_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = await world.registry.register(workflow("bad", task("a", "began")))
    await world.registry.register(ONE)
    original = world.registry.definition

    async def definition(digest: str) -> Definition:
        if digest == bad.digest:
            raise KeyError(digest)
        return await original(digest)

    monkeypatch.setattr(world.registry, "definition", definition)
    published = await world.publish("began")
    await world.route()
    assert sorted(await world.outcomes(published)) == [
        ("ignored", None), ("started", run_for_event(published, "one")),
    ]  # fmt: skip


async def test_an_event_whose_routing_cannot_be_recorded_stops_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.registry.register(ONE)
    strange, sound = await world.publish("strange"), await world.publish("began")

    def encode(fact: Fact) -> NewEvent:
        if isinstance(fact, EventRouted) and not fact.matches:
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return encode_fact(fact)

    monkeypatch.setattr(router_module, "encode_fact", encode)
    await world.route()
    assert await world.outcomes(sound) == [("started", run_for_event(sound, "one"))]
    assert await world.routed(strange) == []


async def test_an_event_of_a_newer_perdure_is_left_to_a_newer_node(world: World) -> None:
    await world.registry.register(ONE, allow_unknown_types=True)
    before = await world.publish("began")
    newer = await world.append(NewEvent("EventPublished", b'{"called":"began"}', schema_version=3))
    after = await world.publish("began")
    router = world.router()
    for _ in range(2):
        with pytest.raises(NewerEvent, match="was written by a newer Perdure"):
            await world.route(router)
    assert [outcome for outcome, _ in await world.outcomes(before)] == ["started"]
    assert await world.routed(newer) == await world.routed(after) == []


async def test_an_event_published_by_version_1_starts_the_run_of_its_key(world: World) -> None:
    document = keyed("{{event.key}}", CAME)
    await world.registry.register(document, allow_unknown_types=True)
    published = await world.append(NewEvent("EventPublished", b'{"name":"began","key":"ada"}', b'{"payload":{}}'))
    await world.route()
    [(outcome, run)] = await world.outcomes(published)
    assert outcome == "started"
    assert rows(world.url, "select run, key from perdure.open_runs") == [(run, "ada")]
    [(data, payload)] = rows(world.url, "select data::text, payload from perdure.events where type = 'RunStarted'")
    assert "ada" not in data
    assert b'"key":"ada"' in payload


async def test_what_stood_before_an_event_that_only_a_newer_perdure_reads_is_not_met_twice(world: World) -> None:
    await world.registry.register(keyed("{{event.payload.id}}"))
    router = world.router()
    await router._take_place()
    first = await world.publish("began", id=1)
    second = await world.publish("began", id=1)
    await world.append(NewEvent("EventPublished", b'{"called":"began"}', schema_version=3))
    run = run_for_event(first, "keyed")
    with pytest.raises(NewerEvent):
        await world.route(router)
    # Met again, the second would start a run of its own.
    await world.end(run)
    with pytest.raises(NewerEvent):
        await world.route(router)
    assert await world.outcomes(second) == [("delivered", run)]
    assert rows(world.url, "select from perdure.open_runs") == []

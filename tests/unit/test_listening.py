"""Which events a listener asks for, and which functions can consume."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

import perdure
from perdure_engine.consumers import durable_consumer
from perdure_engine.facts import FACT_TYPES
from perdure_engine.interest import Interest
from perdure_engine.kinds import kind_of, types_of
from perdure_engine.run.codec import EVENT_TYPES


def test_every_event_type_is_of_one_kind_of_stream() -> None:
    kinds = [types_of(kind) for kind in ("run", "event", "definition", "schedule")]
    assert sorted(type_ for types in kinds for type_ in types) == sorted({*EVENT_TYPES, *FACT_TYPES})
    assert kind_of("TaskCompleted") == "run"
    assert kind_of("DefinitionRetired") == "definition"
    assert kind_of("SomebodyElses") is None


@pytest.mark.parametrize(
    ("names", "kind", "types"),
    [
        ((), None, None),
        ((), "definition", ["DefinitionRegistered", "DefinitionRetired"]),
        ((), "event", ["EventPublished", "EventRouted", "StartRequested"]),
        (("data_ready", "task_completed"), None, ["EventPublished", "TaskCompleted"]),
        (("data_ready",), "event", ["EventPublished"]),
        (("run_failed",), "run", ["RunFailed"]),
    ],
)
def test_an_interest_is_read_as_these_types(names: tuple[str, ...], kind: Any, types: list[str] | None) -> None:
    assert Interest.of(names, kind).types == types


@pytest.mark.parametrize(
    ("names", "kind", "why"),
    [
        ((), "runs", "there is no kind of stream 'runs'; there are run, event, definition, schedule"),
        (("task_completed",), "event", "task_completed is no event in streams of kind 'event'; leave one of them out"),
        (("data_ready",), "run", "data_ready is no event in streams of kind 'run'; leave one of them out"),
    ],
)
def test_an_interest_in_nothing_is_refused(names: tuple[str, ...], kind: Any, why: str) -> None:
    app = perdure.App("embedded:.nowhere")
    for listen in (
        lambda: app.on(*names, kind=kind),
        lambda: app.subscribe("audit", *names, kind=kind),
        lambda: app.consume("audit", *names, kind=kind),
    ):
        with pytest.raises(ValueError) as refused:
            listen()
        assert str(refused.value) == why


async def plain(events: list[perdure.Event]) -> None: ...
async def with_connection(events: list[perdure.Event], connection: AsyncConnection) -> None: ...
async def with_session(session: AsyncSession, events: list[perdure.Event], retries: int = 3) -> None: ...
async def nothing() -> None: ...
async def unnamed(events: list[perdure.Event], connection) -> None: ...  # type: ignore[no-untyped-def]
async def variable(*events: perdure.Event) -> None: ...
def synchronous(events: list[perdure.Event]) -> None: ...


@pytest.mark.parametrize(
    ("function", "connections", "sessions"),
    [(plain, (), ()), (with_connection, ("connection",), ()), (with_session, (), ("session",))],
)
def test_a_consumer_is_given_what_its_type_hints_say(
    function: Callable[..., Any], connections: tuple[str, ...], sessions: tuple[str, ...]
) -> None:
    consumer = durable_consumer("audit", Interest.of(), function, batch=1, parts=1, start="now")
    assert (consumer.events, consumer.connections, consumer.sessions) == ("events", connections, sessions)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (synchronous, "the consumer of audit is not async; write `async def`"),
        (
            nothing,
            "the consumer of audit takes one list of events, and by type hint an AsyncConnection or AsyncSession; "
            "it has none for the events",
        ),
        (
            unnamed,
            "the consumer of audit takes one list of events, and by type hint an AsyncConnection or AsyncSession; "
            "it has events, connection for the events",
        ),
        (variable, "the consumer of audit takes its parameters by name: no *, ** or positional-only ones"),
    ],
)
def test_a_function_that_cannot_consume_is_refused(function: Callable[..., Any], why: str) -> None:
    with pytest.raises(ValueError) as refused:
        perdure.App("embedded:.nowhere").consume("audit")(function)
    assert str(refused.value) == why


def test_one_app_consumes_once_under_a_name() -> None:
    app = perdure.App("embedded:.nowhere")
    app.consume("audit")(plain)
    with pytest.raises(ValueError, match="this app consumes 'audit' already; say consumers= for several, or choose"):
        app.consume("audit")


@pytest.mark.parametrize("start", [-1, "later", 1.5, True])
def test_a_start_that_is_no_place_is_refused(start: Any) -> None:
    app = perdure.App("embedded:.nowhere")
    with pytest.raises(ValueError, match='a subscription starts at "now", at the "beginning" or at a position from 0'):
        app.subscribe("audit", start=start)
    with pytest.raises(ValueError, match='a subscription starts at "now", at the "beginning" or at a position from 0'):
        app.consume("audit", start=start)(plain)


@pytest.mark.parametrize("consumers", [0, -1, True, "2"])
def test_a_number_of_consumers_that_makes_no_sense_is_refused(consumers: Any) -> None:
    with pytest.raises(ValueError, match="consumers are a whole number from 1, not"):
        perdure.App("embedded:.nowhere").consume("audit", consumers=consumers)

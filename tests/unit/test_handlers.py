"""Handlers: how inputs reach parameters, what is refused, where the handler runs, what comes back."""

import contextvars
import datetime
import functools
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from perdure_engine.calling import call
from perdure_engine.definitions.definition import Retry
from perdure_engine.errors import InputsInvalid, NoRetry, OutputInvalid, TaskTypeRefused, UnknownTaskType
from perdure_engine.handlers import task_type
from perdure_engine.task import Task
from perdure_engine.task_types import TaskTypes

if TYPE_CHECKING:
    from array import array

RUN = uuid.UUID("019a0000-0000-7000-8000-000000000001")


class User(BaseModel):
    name: str
    age: int = 0
    born: datetime.date | None = None


@dataclass
class Point:
    x: float
    y: float


def attempt(inputs: dict[str, Any]) -> Task:
    return Task(RUN, "welcome", "greet", 1, inputs, 7)


async def run(handler: Callable[..., Any], inputs: dict[str, Any]) -> Any:
    return await call(task_type("greet", handler), attempt(inputs))


def faults(error: pytest.ExceptionInfo[InputsInvalid]) -> dict[str, str]:
    return {fault.pointer: fault.message for fault in error.value.faults}


async def plain(a: str, b: int = 2) -> Any:
    return [a, b]


async def unannotated(a, b=None):  # type: ignore[no-untyped-def]
    return [a, b]


async def keyword_only(*, a: str) -> Any:
    return a


async def rest(a: str, **others: Any) -> Any:
    return [a, others]


async def typed_rest(**others: int) -> Any:
    return others


async def model(user: User) -> Any:
    return [type(user).__name__, user.name, user.age, str(user.born)]


async def shapes(at: datetime.datetime, price: Decimal, pair: tuple[int, str], key: uuid.UUID, point: Point) -> Any:
    return [at.year, str(price), list(pair), key.int, point.x]


async def alias(sender: Annotated[str, Field(alias="from")]) -> Any:
    return sender


async def lenient(n: Annotated[int, Field(strict=False)]) -> Any:
    return n


async def as_text(user: "User", mode: "Literal['a', 'b']" = "a") -> "list[str]":
    return [user.name, mode]


async def number(x: float) -> Any:
    return x


async def told(a: str, task: Task) -> Any:
    return [a, task.task_id, task.inputs]


@pytest.mark.parametrize(
    ("handler", "inputs", "expected"),
    [
        (plain, {"a": "x", "b": 3}, ["x", 3]),
        (plain, {"a": "x"}, ["x", 2]),
        (unannotated, {"a": {"deep": [1, None]}}, [{"deep": [1, None]}, None]),
        (keyword_only, {"a": "x"}, "x"),
        (rest, {"a": "x", "b-c": 1, "class": [2]}, ["x", {"b-c": 1, "class": [2]}]),
        (typed_rest, {"a": 1}, {"a": 1}),
        (model, {"user": {"name": "Ada", "born": "1815-12-10"}}, ["User", "Ada", 0, "1815-12-10"]),
        (
            shapes,
            {
                "at": "2026-01-31T00:00:00Z", "price": "1.10", "pair": [1, "a"], "point": {"x": 1, "y": 2.5},
                "key": "00000000-0000-0000-0000-000000000005",
            },
            [2026, "1.10", [1, "a"], 5, 1.0],
        ),
        (alias, {"from": "ada"}, "ada"),
        (lenient, {"n": "5"}, 5),
        (as_text, {"user": {"name": "Ada"}, "mode": "b"}, ["Ada", "b"]),
        (number, {"x": 5}, 5.0),
        (told, {"a": "x"}, ["x", "greet", {"a": "x"}]),
        (functools.partial(plain, b=9), {"a": "x"}, ["x", 9]),
    ],
)  # fmt: skip
async def test_inputs_reach_parameters_by_name(
    handler: Callable[..., Any], inputs: dict[str, Any], expected: Any
) -> None:
    assert await run(handler, inputs) == expected


async def test_a_method_and_a_callable_object_are_handlers() -> None:
    class Greeter:
        def __init__(self, word: str) -> None:
            self.word = word

        async def greet(self, name: str) -> str:
            return f"{self.word} {name}"

        async def __call__(self, name: str) -> str:
            return f"{self.word}, {name}"

    assert await run(Greeter("Hello").greet, {"name": "Ada"}) == "Hello Ada"
    assert await run(Greeter("Hello"), {"name": "Ada"}) == "Hello, Ada"
    assert task_type("greet", Greeter("Hello")).is_async


@pytest.mark.parametrize(
    ("handler", "inputs", "expected"),
    [
        (plain, {}, {"/a": "this input is missing"}),
        (plain, {"a": 5}, {"/a": "Input should be a valid string, not an integer"}),
        (plain, {"a": "x", "b": "5"}, {"/b": "Input should be a valid integer, not a string"}),
        (plain, {"a": "x", "b": 5.0}, {"/b": "Input should be a valid integer, not a number"}),
        (plain, {"a": "x", "b": True}, {"/b": "Input should be a valid integer, not a boolean"}),
        (plain, {"a": None}, {"/a": "Input should be a valid string, not null"}),
        (plain, {"a": "x", "bb": 1}, {"/bb": "the handler takes no such input; did you mean b?"}),
        (keyword_only, {"a": "x", "zzz": 1}, {"/zzz": "the handler takes no such input; there are a"}),
        (alias, {"frm": "x", "from": "y"}, {"/frm": "the handler takes no such input; did you mean from?"}),
        (typed_rest, {"a/b": "1"}, {"/a~1b": "Input should be a valid integer, not a string"}),
        (
            model,
            {"user": {"age": []}},
            {
                "/user/name": "this input is missing",
                "/user/age": "Input should be a valid integer, not a list",
            },
        ),
        (told, {"a": "x", "task": 1}, {"/task": "the handler takes no such input; there are a"}),
    ],
)
async def test_inputs_that_do_not_fit_are_refused_with_place_and_reason(
    handler: Callable[..., Any], inputs: dict[str, Any], expected: dict[str, str]
) -> None:
    with pytest.raises(InputsInvalid) as refused:
        await run(handler, inputs)
    assert faults(refused) == expected


async def test_a_union_fault_points_into_the_inputs_and_not_into_the_union() -> None:
    async def handler(to: str | list[str]) -> None: ...

    with pytest.raises(InputsInvalid) as refused:
        await run(handler, {"to": ["a", 5]})
    assert {fault.pointer for fault in refused.value.faults} == {"/to", "/to/1"}


async def test_a_refusal_never_shows_the_value_and_is_never_retried() -> None:
    with pytest.raises(NoRetry) as refused:
        await run(plain, {"a": "x", "b": "s3cret"})
    assert "s3cret" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


async def test_an_input_cannot_take_the_name_of_what_the_engine_fills() -> None:
    async def handler(task: Task, **others: Any) -> Any:
        return others

    with pytest.raises(InputsInvalid) as refused:
        await run(handler, {"task": "mine"})
    assert faults(refused) == {"/task": "this name is the engine's"}


async def test_a_handler_may_change_its_arguments() -> None:
    async def handler(user: dict[str, Any]) -> None:
        user["tags"].append("changed")

    inputs = {"user": {"tags": ["a"]}}
    await run(handler, inputs)
    assert inputs == {"user": {"tags": ["a"]}}


def unresolvable(a: "array[int]") -> None: ...


def no_schema(a: Callable[[], None] | threading.Thread) -> None: ...


def positional(a: int, /) -> None: ...


def variadic(*a: int) -> None: ...


def generator() -> Any:
    yield 1


def sync_with_connection(connection: AsyncConnection) -> None: ...


@pytest.mark.parametrize(
    ("handler", "sentence"),
    [
        (positional, "positional parameter 'a'"),
        (variadic, "positional parameter '\\*a'"),
        (unresolvable, "name 'array' is not defined"),
        (no_schema, "a type hint pydantic cannot use: .*threading.Thread"),
        (generator, "is a generator"),
        (sync_with_connection, "is not async"),
        (5, "is no function"),
    ],
)
def test_a_signature_that_cannot_be_bound_is_refused_at_registration(
    handler: Callable[..., Any], sentence: str
) -> None:
    with pytest.raises(TaskTypeRefused, match=f"the handler of greet .*{sentence}"):
        task_type("greet", handler)


def test_a_hint_that_lives_in_a_function_is_resolved_in_the_namespace_given() -> None:
    class Local(BaseModel):
        n: int

    async def handler(local: "Local") -> None: ...

    with pytest.raises(TaskTypeRefused, match="'Local' is not defined"):
        task_type("greet", handler)
    assert "local" in task_type("greet", handler, namespace=locals()).input_schema["properties"]


async def with_connection(connection: AsyncConnection, n: int) -> None: ...


async def with_session(session: Annotated[AsyncSession, "the engine's"]) -> None: ...


@pytest.mark.parametrize(
    ("handler", "exactly_once"), [(with_connection, True), (with_session, True), (plain, False), (told, False)]
)
def test_a_connection_or_session_parameter_makes_a_type_exactly_once(
    handler: Callable[..., Any], exactly_once: bool
) -> None:
    assert task_type("greet", handler).exactly_once is exactly_once


async def test_an_exactly_once_type_is_not_called_without_a_connection() -> None:
    with pytest.raises(TypeError, match="exactly-once"):
        await run(with_connection, {"n": 1})


colour = contextvars.ContextVar("colour", default="none")


def where(a: str) -> Any:
    return [a, colour.get(), threading.get_ident()]


async def test_a_synchronous_handler_runs_off_the_loops_thread_and_sees_its_context() -> None:
    colour.set("blue")
    a, seen, thread = await run(where, {"a": "x"})
    assert (a, seen) == ("x", "blue")
    assert thread != threading.get_ident()
    assert not task_type("greet", where).is_async


async def test_an_async_handler_behind_a_plain_decorator_is_awaited() -> None:
    @functools.wraps(plain)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)

    assert await run(wrapped, {"a": "x"}) == ["x", 2]


async def returns_model() -> User:
    return User(name="Ada", born=datetime.date(1815, 12, 10))


async def returns_dataclasses() -> list[Point]:
    return [Point(1, 2.5)]


async def returns_date() -> datetime.date:
    return datetime.date(2026, 1, 31)


async def returns_unannotated_model():  # type: ignore[no-untyped-def]
    return User(name="Ada")


async def returns_other() -> User:
    return {"name": "not a User"}  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (returns_model, {"name": "Ada", "age": 0, "born": "1815-12-10"}),
        (returns_dataclasses, [{"x": 1.0, "y": 2.5}]),
        (returns_date, "2026-01-31"),
        (returns_unannotated_model, {"name": "Ada", "age": 0, "born": None}),
        (returns_other, {"name": "not a User"}),
    ],
)
async def test_the_output_is_plain_json(handler: Callable[..., Any], expected: Any) -> None:
    assert await run(handler, {}) == expected


async def test_plain_output_passes_as_it_is() -> None:
    document = {"n": 2**60, "x": [1.5, None, True]}

    async def handler() -> dict[str, Any]:
        return document

    assert await run(handler, {}) is document


async def test_an_output_that_is_not_json_is_refused_and_never_retried() -> None:
    async def handler() -> Any:
        return object()

    with pytest.raises(OutputInvalid, match="the output of greet cannot be written as JSON") as refused:
        await run(handler, {})
    assert isinstance(refused.value, NoRetry)


def test_the_schema_is_the_signature() -> None:
    schema = task_type("greet", plain).input_schema
    assert schema["title"] == "greet"
    assert schema["required"] == ["a"]
    assert schema["properties"]["b"] == {"default": 2, "title": "B", "type": "integer"}
    assert schema["additionalProperties"] is False
    assert "task" not in task_type("greet", told).input_schema["properties"]
    assert task_type("greet", rest).input_schema["additionalProperties"] is not False


def test_a_task_knows_its_key_and_its_logger() -> None:
    first, second = attempt({}), Task(RUN, "welcome", "greet", 2, {}, 8)
    assert first.idempotency_key == second.idempotency_key == f"{RUN}:greet"
    assert first.idempotency_key != Task(RUN, "welcome", "other", 1, {}, 7).idempotency_key
    assert first.log is first.log


def test_the_registry_refuses_a_taken_name_unless_told_to_replace() -> None:
    types = TaskTypes()
    types.add(task_type("greet", plain, retry=Retry(attempts=5), timeout=3), builtin=True)
    with pytest.raises(TaskTypeRefused, match="greet is built in; pass replace=True"):
        types.add(task_type("greet", rest))
    assert types.get("greet").handler is plain
    assert (types.get("greet").retry, types.get("greet").timeout) == (Retry(attempts=5), 3)
    types.add(task_type("greet", rest), replace=True)
    assert types.get("greet").handler is rest
    assert not types.is_builtin("greet")
    with pytest.raises(TaskTypeRefused, match="greet is there already"):
        types.add(task_type("greet", plain))


def test_the_registry_names_the_nearest_types() -> None:
    types = TaskTypes()
    types.add(task_type("greet", plain))
    types.add(task_type("email", rest))
    with pytest.raises(UnknownTaskType, match=r"'great'; did you mean greet\?") as unknown:
        types.get("great")
    assert unknown.value.near == ("greet",)
    assert types.names() == ["email", "greet"]
    assert types.schemas()["greet"]["required"] == ["a"]
    types.remove("greet")
    assert "greet" not in types
    with pytest.raises(UnknownTaskType, match="there are email"):
        types.remove("zzz")


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_is_more_than_nothing(timeout: float) -> None:
    with pytest.raises(TaskTypeRefused, match="a number of seconds above 0"):
        task_type("greet", plain, timeout=timeout)

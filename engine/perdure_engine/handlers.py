"""A task type, made from a handler by its signature."""

import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import PydanticUserError

from perdure_engine.definitions.definition import Delivery, Retry
from perdure_engine.errors import TaskTypeRefused
from perdure_engine.executors import ExecutorOf
from perdure_engine.inputs import Binding, compile_inputs
from perdure_engine.limits import Rate, parse_rate
from perdure_engine.outputs import Serialise, compile_output
from perdure_engine.signature import Signature, function_of, read_signature

MOST_SECONDS = 100 * 365 * 86_400
"""The longest wait a retry policy may ask for, and the longest an attempt may take: a hundred years."""

LONGEST_NAME = 256
"""Characters of a task type's name."""

Handler = Callable[..., Any]


@dataclass(frozen=True, slots=True, eq=False)
class TaskType:
    """What the engine knows of a kind of task. Made by ``task_type``."""

    name: str
    handler: Handler
    retry: Retry | None
    """None leaves it to the definition, then the engine."""
    timeout: float | None
    """Seconds an attempt may take; None as for ``retry``."""
    exactly_once: bool
    """The handler writes in the transaction that records its completion."""
    delivery: Delivery | None
    """None as for ``retry``."""
    limit: int | None
    """How many attempts a node executes at once; None is as many as it has slots."""
    rate: Rate | None
    """How many attempts begin in a time, over all nodes."""
    heartbeat: float | None
    """Seconds within which an attempt must give a sign of life; None as for ``retry``."""
    is_async: bool
    """A synchronous handler runs in a thread, or in ``executor``."""
    executor: ExecutorOf | None
    signature: Signature
    binding: Binding
    serialise: Serialise

    @property
    def input_schema(self) -> dict[str, Any]:
        """The JSON Schema of the inputs."""
        return self.binding.schema


def task_type(
    name: str,
    handler: Handler,
    *,
    retry: Retry | None = None,
    timeout: float | None = None,
    delivery: Delivery | None = None,
    heartbeat: float | None = None,
    limit: int | None = None,
    rate: str | None = None,
    executor: Executor | Callable[[], Executor] | None = None,
    namespace: Mapping[str, Any] | None = None,
) -> TaskType:
    """Make a task type of ``handler``. Everything about its signature is found and compiled here, once.

    ``timeout`` is seconds an attempt, ``heartbeat`` seconds between two signs of its life, ``limit`` how many a node
    executes at once, ``rate`` how many begin in a time over all nodes (``10/s``). Hints written as text are resolved in
    the handler's module, and in ``namespace`` for names that live elsewhere (the locals of the function that defines
    it). ``executor`` is for synchronous handlers: one of ``concurrent.futures``, or a function that makes one, which is
    called anew if it breaks. Raises TaskTypeRefused.
    """
    _check_name(name)
    for what, seconds in (("timeout", timeout), ("heartbeat", heartbeat)):
        if seconds is not None and not _is_number(seconds, above=0):
            right = f"a number of seconds above 0 and at most {MOST_SECONDS:,}, or None"
            raise TaskTypeRefused(f"the {what} of {name} is {right}, not {seconds!r:.60}")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise TaskTypeRefused(f"the limit of {name} is a whole number from 1, or None, not {limit!r:.60}")
    if delivery not in (None, *get_args(Delivery)):
        raise TaskTypeRefused(f"the delivery of {name} is at_least_once or at_most_once, not {delivery!r:.60}")
    if retry is not None and (why := _wrong_policy(retry)):
        raise TaskTypeRefused(f"the retry policy of {name}: {why}")
    signature = read_signature(name, handler, namespace)
    if executor is not None and (why := _wrong_executor(executor, handler, heartbeat)):
        raise TaskTypeRefused(f"the executor of {name}: {why}")
    function = function_of(handler)
    exactly_once = bool(signature.connections or signature.sessions)
    is_async = inspect.iscoroutinefunction(function)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TaskTypeRefused(f"the handler of {name} is a generator; return one value instead of yielding several")
    if exactly_once and not is_async:
        raise TaskTypeRefused(
            f"the handler of {name} takes an async connection but is not async; write `async def`, or drop it"
        )
    try:
        binding = compile_inputs(name, signature)
        serialise = compile_output(name, signature.returns)
    except (PydanticUserError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise TaskTypeRefused(f"the handler of {name} has a type hint pydantic cannot use: {reason}") from error
    return TaskType(
        name, handler, retry, timeout, exactly_once, delivery, limit, _rate(name, rate), heartbeat, is_async,
        None if executor is None else ExecutorOf(executor, name), signature, binding, serialise,
    )  # fmt: skip


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise TaskTypeRefused(
            f"the name of a task type is 1 to {LONGEST_NAME} printable characters, not {name!r:.60}; "
            'write @app.task("name"), or @app.task() to take the function\'s own'
        )


def _is_number(value: object, *, above: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and above < value <= MOST_SECONDS


def _rate(name: str, rate: str | None) -> Rate | None:
    try:
        return None if rate is None else parse_rate(rate)
    except ValueError as error:
        raise TaskTypeRefused(f"the rate of {name}: {error}") from error


def _wrong_executor(executor: object, handler: Handler, heartbeat: float | None) -> str | None:
    if not isinstance(executor, Executor) and not callable(executor):
        return f"it is an executor of concurrent.futures, or a function that makes one, not {executor!r:.60}"
    if inspect.iscoroutinefunction(function_of(handler)):
        return "it is for synchronous handlers, and this one is async; write `def`, or drop it"
    if heartbeat is not None:
        return "a heartbeat does not reach the node from there; give it a timeout instead"
    return None


def _wrong_policy(retry: object) -> str | None:
    if not isinstance(retry, Retry):
        return f"it is a perdure.Retry, such as Retry(attempts=3), not {retry!r:.60}"
    if type(retry.attempts) is not int or retry.attempts < 1:
        return f"attempts are a whole number from 1, not {retry.attempts!r:.60}"
    for name in ("initial", "multiplier", "maximum", "jitter"):
        value = getattr(retry, name)
        if type(value) not in (int, float) or not 0 <= value <= MOST_SECONDS:
            return f"{name} is a number from 0 to {MOST_SECONDS:,}, not {value!r:.60}"
    return None

"""Consumers: functions that are called for batches of events, each event exactly once in what they write to Postgres.

A consumer takes the events, and by type hint SQLAlchemy's ``AsyncConnection`` or ``AsyncSession``: what it writes
through that commits together with the subscription's checkpoint, or not at all. See perdure_eventstore.subscription.
"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, get_type_hints

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from perdure_engine.errors import TransactionIsOurs
from perdure_engine.interest import Interest
from perdure_engine.signature import function_of
from perdure_engine.transactions import lend, session_in
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.terms import Start, Terms

Consumer = Callable[..., Awaitable[None]]

_refusal = partial(TransactionIsOurs, who="a consumer", beside="checkpoint")


@dataclass(frozen=True, slots=True, eq=False)
class DurableConsumer:
    """A consumer with the terms of its subscription. Made by ``durable_consumer``."""

    terms: Terms
    interest: Interest
    function: Consumer
    events: str
    connections: tuple[str, ...]
    sessions: tuple[str, ...]

    async def __call__(self, recorded: Sequence[RecordedEvent], connection: AsyncConnection) -> None:
        """Call it in the open transaction of ``connection``. Raises TransactionIsOurs, and what it raises."""
        events = [event for each in recorded if (event := self.interest.match(each)) is not None]
        arguments: dict[str, Any] = {self.events: events}
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(lend(connection, _refusal))
            for name in self.connections:
                arguments[name] = connection
            for name in self.sessions:
                arguments[name] = await stack.enter_async_context(session_in(connection))
            await self.function(**arguments)


def durable_consumer(
    name: str, interest: Interest, function: Consumer, *, batch: int, parts: int, start: Start
) -> DurableConsumer:
    """Make a consumer of ``function`` for the subscription ``name``. Raises ValueError for what cannot be one."""
    if not inspect.iscoroutinefunction(function_of(function)):
        raise ValueError(f"the consumer of {name} is not async; write `async def`")
    match = None if not interest.names else partial(_wants, interest)
    terms = Terms(name=name, types=interest.types, match=match, batch=batch, parts=parts, start=start)
    found: dict[type, list[str]] = {AsyncConnection: [], AsyncSession: [], object: []}
    for parameter, hint in _parameters(name, function).items():
        kind = next(kind for kind in found if kind is object or (inspect.isclass(hint) and issubclass(hint, kind)))
        found[kind].append(parameter)
    if len(found[object]) != 1:
        raise ValueError(
            f"the consumer of {name} takes one list of events, and by type hint an AsyncConnection or AsyncSession; "
            f"it has {', '.join(found[object]) or 'none'} for the events"
        )
    return DurableConsumer(
        terms, interest, function, found[object][0], tuple(found[AsyncConnection]), tuple(found[AsyncSession])
    )  # fmt: skip


def _wants(interest: Interest, recorded: RecordedEvent) -> bool:
    return interest.match(recorded) is not None


def _parameters(name: str, function: Consumer) -> dict[str, Any]:
    """The type hint of each parameter that must be given."""
    try:
        hints = get_type_hints(function_of(function))
    except NameError as error:
        raise ValueError(
            f"the consumer of {name} has a type hint that cannot be resolved: {error}; import the name at run time"
        ) from error
    given = inspect.signature(function).parameters.values()
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if any(parameter.kind not in by_name for parameter in given):
        raise ValueError(f"the consumer of {name} takes its parameters by name: no *, ** or positional-only ones")
    return {parameter.name: hints.get(parameter.name) for parameter in given if parameter.default is parameter.empty}

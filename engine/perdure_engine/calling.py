"""The call of a handler for one attempt: in the event loop, in a thread, or in an executor."""

import asyncio
import inspect
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure_engine.handlers import TaskType
from perdure_engine.task import Task, current_task
from perdure_engine.transactions import lend, session_in

Result = TypeVar("Result")


async def call(task_type: TaskType, task: Task, connection: AsyncConnection | None = None) -> Any:
    """Run one attempt: bind the inputs, call the handler, and return its output as plain JSON values.

    An exactly-once type needs ``connection``, inside a transaction that the caller commits or rolls back. A
    synchronous handler in a thread sees the caller's context variables. Cancelled once, this waits until the thread or
    the executor's work ends (the handler is told by ``task.is_cancelled``; what an executor has not begun ends at
    once); cancelled again, it leaves that to finish unheard. Raises InputsInvalid, OutputInvalid, TransactionIsOurs
    (none is retried), BrokenExecutor, ExecutorUnusable, and whatever the handler raises.
    """
    current_task.set(task)
    arguments = task_type.binding.bind(task.given)
    for name in task_type.signature.tasks:
        arguments[name] = task
    if task_type.exactly_once:
        output = await _call_in_transaction(task_type, arguments, connection)
    elif task_type.is_async:
        output = await task_type.handler(**arguments)
    elif task_type.executor is not None:
        executing = task_type.executor.submit(partial(task_type.handler, **arguments))
        output = await _to_its_end(executing.ended, executing.withdraw)
    else:
        function = partial(_caught, partial(task_type.handler, **arguments))
        thread = anyio.to_thread.run_sync(function, abandon_on_cancel=True)
        output, error = await _to_its_end(asyncio.ensure_future(thread))
        if error is not None:
            raise error
        # A plain function around an async one, such as a decorator makes.
        if inspect.isawaitable(output):
            output = await output
    return task_type.serialise(output)


def _caught(function: Callable[[], Result]) -> tuple[Result | None, BaseException | None]:
    # sys.exit() is passed on by a task of asyncio's to the event loop, which ends, and the node with it.
    try:
        return function(), None
    except BaseException as error:
        return None, error


async def _to_its_end(work: "asyncio.Future[Result]", withdraw: Callable[[], None] | None = None) -> Result:
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if work.cancelled():
            raise
        if withdraw is not None:
            withdraw()
    try:
        return await asyncio.shield(work)
    finally:
        work.cancel()


async def _call_in_transaction(
    task_type: TaskType, arguments: dict[str, Any], connection: AsyncConnection | None
) -> Any:
    if connection is None or not connection.in_transaction():
        raise TypeError(f"{task_type.name} is an exactly-once task type: call it with a connection in a transaction")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(lend(connection))
        for name in task_type.signature.connections:
            arguments[name] = connection
        for name in task_type.signature.sessions:
            arguments[name] = await stack.enter_async_context(session_in(connection))
        return await task_type.handler(**arguments)

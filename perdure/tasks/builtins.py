"""Adds the task types that come with Perdure to those of an application."""

from collections.abc import Awaitable, Callable

from perdure.tasks.database import OtherDatabase, database_task
from perdure.tasks.email import email_task
from perdure.tasks.http import http_task
from perdure.tasks.settings import TaskSettings
from perdure_engine.handlers import task_type
from perdure_engine.task_types import TaskTypes


def register_builtins(
    types: TaskTypes, settings: TaskSettings, *, schema: str = "perdure", own_url: str | None = None
) -> Callable[[], Awaitable[None]]:
    """Add the built-in types, and return what closes their connections when the node stops.

    ``schema`` and ``own_url`` are those of Perdure's own database: see ``database_task``. Nothing connects before a
    task does. A type that is there already stays: the application replaced it.
    """
    database = database_task(settings.task_database, schema=schema, own_url=own_url)
    http = http_task(settings.http)
    for name, handler in (("email", email_task(settings.smtp)), ("database", database), ("http", http)):
        if name not in types:
            types.add(task_type(name, handler), builtin=True)

    async def close() -> None:
        await http.aclose()
        if isinstance(database, OtherDatabase):
            await database.aclose()

    return close

"""Log lines of the command line's processes: coloured on a terminal, JSON where standard error goes elsewhere.

Called by the command line alone: a library leaves logging to the application it is part of.
"""

import logging
import os
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

from perdure_engine.task import current_task

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_CHATTY = ("alembic", "apscheduler", "asyncio", "httpcore", "httpx", "psycopg", "sqlalchemy")
"""Standard library loggers that say at INFO what interests those who debug them."""


def configure(verbose: int = 0) -> None:
    """Send structlog's lines and the standard library's to standard error; ``verbose`` 0 warns, 1 informs, 2 debugs."""
    level = _LEVELS[min(verbose, len(_LEVELS) - 1)]
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=_rendering(), foreign_pre_chain=_shared()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(level if level == logging.DEBUG else logging.WARNING)


def name_attempt(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Add the attempt that the line was written in: workflow, run, task, attempt."""
    if (task := current_task.get()) is not None:
        for name, value in (
            ("workflow", task.workflow_id), ("run", str(task.run_id)), ("task", task.task_id), ("attempt", task.attempt)
        ):  # fmt: skip
            event.setdefault(name, value)
    return event


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_attempt,
    ]


def _rendering() -> list[Processor]:
    bare = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if sys.stderr.isatty():
        return [bare, structlog.dev.ConsoleRenderer(colors=not os.environ.get("NO_COLOR"))]
    return [bare, structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str)]

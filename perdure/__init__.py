"""Dynamic, event-driven workflows that outlast outages, on the Postgres you already have."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.app import App
    from perdure.client import Published, Run
    from perdure.errors import PerdureError, RunCancelled, RunErased, RunFailed, RunTimedOut, StartRefused, StillOpen
    from perdure.settings import Settings
    from perdure_engine.definitions.definition import Retry
    from perdure_engine.errors import NoRetry
    from perdure_engine.faults import DefinitionRefused, Fault
    from perdure_engine.interest import Event
    from perdure_engine.task import Task
    from perdure_eventstore.door import Json, PayloadRefused

__all__ = [
    "App",
    "DefinitionRefused",
    "Event",
    "Fault",
    "Json",
    "NoRetry",
    "PayloadRefused",
    "PerdureError",
    "Published",
    "Retry",
    "Run",
    "RunCancelled",
    "RunErased",
    "RunFailed",
    "RunTimedOut",
    "Settings",
    "StartRefused",
    "StillOpen",
    "Task",
]

# Imported when first asked for, so that `perdure --help` and the embedded server's keeper do not load a driver.
_PLACES = {
    "App": "perdure.app",
    "DefinitionRefused": "perdure_engine.faults",
    "Event": "perdure_engine.interest",
    "Fault": "perdure_engine.faults",
    "Json": "perdure_eventstore.door",
    "NoRetry": "perdure_engine.errors",
    "PayloadRefused": "perdure_eventstore.door",
    "PerdureError": "perdure.errors",
    "Published": "perdure.client",
    "Retry": "perdure_engine.definitions.definition",
    "Run": "perdure.client",
    "RunCancelled": "perdure.errors",
    "RunErased": "perdure.errors",
    "RunFailed": "perdure.errors",
    "RunTimedOut": "perdure.errors",
    "Settings": "perdure.settings",
    "StartRefused": "perdure.errors",
    "StillOpen": "perdure.errors",
    "Task": "perdure_engine.task",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)

"""Dynamic, event-driven workflows that outlast outages, on the Postgres you already have."""

from perdure.app import App
from perdure.client import Published, Run
from perdure.errors import PerdureError, RunCancelled, RunFailed, RunTimedOut, StartRefused, StillOpen
from perdure.settings import Settings
from perdure_engine.definitions.definition import Retry
from perdure_engine.errors import NoRetry
from perdure_engine.event_manager import Event
from perdure_engine.faults import DefinitionRefused, Fault
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
    "RunFailed",
    "RunTimedOut",
    "Settings",
    "StartRefused",
    "StillOpen",
    "Task",
]

"""Any error as an exit status and one sentence."""

import traceback

import psycopg
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from perdure.cli import exits
from perdure.embedded import EmbeddedPostgresError
from perdure.errors import PerdureError, RunNotCompleted, StillOpen
from perdure.settings import SettingsRefused
from perdure_engine.erasure import ErasureRefused
from perdure_engine.faults import DefinitionRefused
from perdure_engine.history import UnknownRun
from perdure_engine.registry import UnknownWorkflow
from perdure_engine.schedules.book import UnknownSchedule
from perdure_engine.schedules.wanted import ScheduleRefused
from perdure_engine.upcasting import UnreadableEvent
from perdure_eventstore.database import connection_error
from perdure_eventstore.door import PayloadRefused
from perdure_eventstore.errors import AppendRefused, ClockDrift, Conflict, FenceLost, LogError, Raced
from perdure_eventstore.head_keeper import NothingToSign
from perdure_eventstore.heads import HeadRefused
from perdure_eventstore.hosts import WrongUrl
from perdure_eventstore.outlets import PublishingFailed
from perdure_eventstore.signing import KeyRefused
from perdure_eventstore.transfer.entry import TransferRefused
from perdure_eventstore.tree import TreeFault
from perdure_eventstore.vault.errors import VaultError
from perdure_eventstore.verify import PlaceRefused

_WRONG_USE = (
    SettingsRefused, PayloadRefused, UnknownWorkflow, UnknownRun, ArgumentError, KeyRefused, PlaceRefused, VaultError,
    ErasureRefused, ScheduleRefused, UnknownSchedule, WrongUrl,
)  # fmt: skip
_WRITE_REFUSED = (AppendRefused, ClockDrift, Conflict, FenceLost, Raced)


def explain(error: BaseException) -> tuple[int, str]:
    """The exit status for ``error``, and what to say."""
    # Typer carries a copy of click inside; its errors are known by how they word themselves.
    if (word := getattr(error, "format_message", None)) is not None:
        return exits.WRONG_USE, f"{str(word()).rstrip('.')}; see `perdure --help`"
    if isinstance(error, exits.Stop):
        return error.status, str(error)
    if isinstance(error, DefinitionRefused):
        return exits.FAILED, refusal(error)
    return _of_perdure(error) or _of_database(error) or _of_the_rest(error)


def refusal(error: DefinitionRefused) -> str:
    """Every fault on a line of its own."""
    named = f"definition {error.workflow_id} is refused" if error.workflow_id else "the definition is refused"
    return "\n".join([f"{named}:", *(f"  {fault}" for fault in error.faults)])


def _of_perdure(error: BaseException) -> tuple[int, str] | None:
    if isinstance(error, StillOpen):
        return exits.STILL_OPEN, str(error)
    if isinstance(error, RunNotCompleted):
        return exits.FAILED, str(error)
    if isinstance(error, (PerdureError, *_WRONG_USE)):
        return exits.WRONG_USE, str(error)
    return None


def _of_database(error: BaseException) -> tuple[int, str] | None:
    if isinstance(error, TreeFault | NothingToSign | PublishingFailed | HeadRefused | TransferRefused):
        return exits.FAILED, str(error)
    if isinstance(error, _WRITE_REFUSED):
        return exits.FAILED, f"the database refused: {error}"
    if isinstance(error, UnreadableEvent):
        return exits.FAILED, str(error)
    if isinstance(error, LogError | EmbeddedPostgresError):
        return exits.NO_DATABASE, _on_one_line(error)
    if isinstance(error, DBAPIError | psycopg.Error):
        return exits.NO_DATABASE, _on_one_line(connection_error(error))
    if isinstance(error, PoolTimeout):
        return exits.NO_DATABASE, "the database has no free connection"
    return None


def _on_one_line(error: BaseException) -> str:
    """libpq likes to ask whether the server is running on a second one."""
    return " ".join(str(error).split())


def _of_the_rest(error: BaseException) -> tuple[int, str]:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return exits.FAILED, f"{where}{error.strerror or error}"
    frames = traceback.extract_tb(error.__traceback__)
    at = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return exits.FAILED, f"this is a fault in Perdure, please report it: {type(error).__name__}: {error}{at}"

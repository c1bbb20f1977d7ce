"""What the log refuses, as one tree of errors, and the one place where Postgres' codes become them."""

from uuid import UUID

import psycopg
from psycopg import errors as pg


class LogError(Exception):
    """Anything the log could not do."""


class Conflict(LogError):
    """The stream's head is not the one the append expected: somebody appended first. Nothing was written."""

    def __init__(self, stream: UUID, expected: int) -> None:
        self.stream, self.expected = stream, expected
        super().__init__(f"stream {stream} is no longer at version {expected}: somebody else appended to it first")


class Raced(LogError):
    """Another transaction took the same place in a stream after the heads were probed. Nothing was written."""


class AppendRefused(LogError):
    """Postgres refused the events themselves, or a row beside them. Nothing was written."""

    def __init__(self, message: str, constraint: str | None = None) -> None:
        self.constraint = constraint
        super().__init__(message)


class ClockDrift(LogError):
    """The appender's clock is more than 5 s from the database's."""


class FenceLost(LogError):
    """The writer's right to write was taken over by somebody else. Nothing was written from then on."""


class LogUnavailable(LogError):
    """The database could not be reached, or not for long enough."""


class SubscriptionRefused(LogError):
    """A subscription is not divided, or cannot be divided, as was asked. The message says what would be right."""


class SchemaMissing(LogError):
    """The database has no Perdure tables, or those of another version."""


# Operational errors pass: a lost connection, a full disk, a deadlock, a time-out. A server that became a standby
# refuses writes: its successor will take them.
_UNAVAILABLE = (psycopg.OperationalError, psycopg.InterfaceError, pg.ReadOnlySqlTransaction)


def domain_error(error: psycopg.Error) -> LogError:
    """The log's own error for one of Postgres'."""
    message = (error.diag.message_primary or str(error)).strip()
    match error.sqlstate:
        case "PD002":
            return ClockDrift(message)
        case "PD003":
            return FenceLost(message)
        case "23505" if error.diag.constraint_name == "events_stream_version":
            return Raced(message)
        case "42P01" | "42883" | "3F000":
            return SchemaMissing(f"{message}; run `perdure migrate`")
    # Whatever ends the connection says nothing of the events: a time-out of the administrator's, for one.
    if isinstance(error, _UNAVAILABLE) or error.diag.severity_nonlocalized in ("FATAL", "PANIC"):
        return LogUnavailable(message)
    return AppendRefused(message, error.diag.constraint_name)

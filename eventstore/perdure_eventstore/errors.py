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
    """Postgres refused the events themselves. Nothing was written."""


class ClockDrift(LogError):
    """The appender's clock is more than 5 s from the database's."""


class FenceLost(LogError):
    """The writer's right to write was taken over by somebody else. Nothing was written."""


class LogUnavailable(LogError):
    """The database could not be reached, or not for long enough."""


class SchemaMissing(LogError):
    """The database has no Perdure tables, or those of another version."""


# A server that became a standby refuses writes: its successor will take them.
_UNREACHABLE = (psycopg.OperationalError, psycopg.InterfaceError, pg.ReadOnlySqlTransaction, OSError)


def is_unreachable(error: BaseException) -> bool:
    """Whether the connection, not the statement, is at fault, so that the same statement may be sent again."""
    if isinstance(error, pg.LockNotAvailable | pg.QueryCanceled | pg.DiskFull | pg.OutOfMemory):
        return False
    return isinstance(error, _UNREACHABLE)


def domain_error(error: psycopg.Error) -> LogError:
    """The log's own error for one of Postgres'."""
    message = (error.diag.message_primary or str(error)).strip()
    match error.sqlstate:
        case "PD002":
            return ClockDrift(message)
        case "PD003":
            return FenceLost(message)
        case "23505":
            return Raced(message)
        case "42P01" | "42883" | "3F000":
            return SchemaMissing(f"{message}; run `perdure migrate`")
    if is_unreachable(error):
        return LogUnavailable(message)
    return AppendRefused(message)

"""What came of an attempt on its way from the node that executed it to the owner of its run."""

from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from perdure_engine.run import commands as c
from perdure_engine.run.events import Limit
from perdure_eventstore.door import NULL, Json


class _Detail(msgspec.Struct, frozen=True, omit_defaults=True):
    ended: Literal["completed", "failed", "timed_out", "interrupted", "cancelled"]
    task_id: str
    attempt: int
    max_attempts: int = 1
    retry_at: datetime | None = None
    timeout: float = 0.0
    limit: Limit = "start_to_close"
    clean: bool = False


class Result(NamedTuple):
    """An inbox row's ``detail`` and ``payload``: the engine's facts, and what the handler gave."""

    detail: bytes
    payload: bytes | None


_decode = msgspec.json.Decoder(_Detail).decode


def write_result(command: c.AttemptEnd) -> Result:
    """``command`` as a row."""
    payload = None
    match command:
        case c.CompleteAttempt():
            detail, payload = _Detail("completed", command.task_id, command.attempt), command.output.text
        case c.FailAttempt():
            detail = _Detail("failed", command.task_id, command.attempt, command.max_attempts, command.retry_at)
            payload = command.error.text
        case c.TimeOutAttempt():
            detail = _Detail(
                "timed_out", command.task_id, command.attempt, command.max_attempts, command.retry_at,
                command.timeout, command.limit,
            )  # fmt: skip
        case c.InterruptAttempt():
            detail = _Detail("interrupted", command.task_id, command.attempt, clean=command.clean)
        case c.CancelAttempt():
            detail = _Detail("cancelled", command.task_id, command.attempt)
    return Result(msgspec.json.encode(detail), payload)


def read_result(result: Result, at: datetime) -> c.AttemptEnd:
    """The command that a row stands for. Raises msgspec.MsgspecError for one that cannot be read."""
    detail = _decode(result.detail)
    given = NULL if result.payload is None else Json(result.payload)
    task_id, attempt = detail.task_id, detail.attempt
    match detail.ended:
        case "completed":
            return c.CompleteAttempt(at=at, task_id=task_id, attempt=attempt, output=given)
        case "failed":
            return c.FailAttempt(
                at=at, task_id=task_id, attempt=attempt, error=given, max_attempts=detail.max_attempts,
                retry_at=detail.retry_at,
            )  # fmt: skip
        case "timed_out":
            return c.TimeOutAttempt(
                at=at, task_id=task_id, attempt=attempt, timeout=detail.timeout, limit=detail.limit,
                max_attempts=detail.max_attempts, retry_at=detail.retry_at,
            )  # fmt: skip
        case "interrupted":
            return c.InterruptAttempt(at=at, task_id=task_id, attempt=attempt, clean=detail.clean)
        case "cancelled":
            return c.CancelAttempt(at=at, task_id=task_id, attempt=attempt)

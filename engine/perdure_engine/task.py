"""What a handler is told of its attempt."""

from contextvars import ContextVar
from time import monotonic
from typing import Any, Final, cast
from uuid import UUID

import structlog
from structlog.typing import FilteringBoundLogger

from perdure_eventstore.door import Json


class Task:
    """One attempt of one task, handed to any parameter annotated with this class."""

    __slots__ = (
        "_is_copy",
        "_log",
        "attempt",
        "beat",
        "fencing_token",
        "given",
        "is_cancelled",
        "run_id",
        "task_id",
        "workflow_id",
    )

    run_id: UUID
    workflow_id: str
    task_id: str
    attempt: int
    """From 1; interruptions count here, though not towards the retry policy."""
    given: Json
    """The inputs as text, resolved from the templates, before validation."""
    fencing_token: int
    """Grows with every change of owner: a service that remembers the highest one can refuse a woken sleeper."""
    is_cancelled: bool
    """Whether the attempt was told to end, which a synchronous handler has to look at by itself."""
    beat: float
    """When it last gave a sign of life, on ``time.monotonic``'s clock."""

    def __init__(
        self,
        run_id: UUID,
        workflow_id: str,
        task_id: str,
        attempt: int,
        inputs: dict[str, Any] | Json,
        fencing_token: int,
    ) -> None:
        self.run_id = run_id
        self.workflow_id = workflow_id
        self.task_id = task_id
        self.attempt = attempt
        self.given = inputs if isinstance(inputs, Json) else Json.of(inputs)
        self.fencing_token = fencing_token
        self.is_cancelled = self._is_copy = False
        # Most handlers never log, and binding costs more than all the rest.
        self._log: FilteringBoundLogger | None = None

    @property
    def inputs(self) -> dict[str, Any]:
        """As resolved from the templates, before validation. Shared with the run: treat it as frozen."""
        inputs: dict[str, Any] = self.given.value
        return inputs

    @property
    def idempotency_key(self) -> str:
        """The same text for every attempt of this task of this run, and for no other."""
        return f"{self.run_id}:{self.task_id}"

    def heartbeat(self) -> None:
        """Say that the attempt is alive, where its task or its type has a limit for that. May be called in a thread.

        Raises RuntimeError in another process, from which it does not reach the node.
        """
        if self._is_copy:
            raise RuntimeError(
                "a heartbeat does not reach the node from an executor's process; give it a timeout instead"
            )
        self.beat = monotonic()

    @property
    def log(self) -> FilteringBoundLogger:
        """A structlog logger that carries workflow, run, task and attempt."""
        if self._log is None:
            bound = structlog.get_logger("perdure.task").bind(
                workflow=self.workflow_id, run=str(self.run_id), task=self.task_id, attempt=self.attempt
            )
            self._log = cast(FilteringBoundLogger, bound)
        return self._log

    def __reduce__(self) -> tuple[Any, ...]:
        fields = self.run_id, self.workflow_id, self.task_id, self.attempt, self.inputs, self.fencing_token
        return _copied, fields

    def __repr__(self) -> str:
        return f"Task({self.workflow_id}, run {self.run_id}, {self.task_id}, attempt {self.attempt})"


def _copied(*fields: Any) -> Task:
    """In another process, which an executor took it to."""
    task = Task(*fields)
    task._is_copy = True
    return task


current_task: Final[ContextVar[Task | None]] = ContextVar("perdure_task", default=None)
"""The attempt that the code being run belongs to, for log lines; None outside handlers."""

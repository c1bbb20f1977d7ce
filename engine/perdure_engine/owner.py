"""What a run needs of the node that holds it."""

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from perdure_engine.history import Loaded
from perdure_engine.run.commands import BeginAttempt
from perdure_engine.run.events import RunEvent
from perdure_engine.run.state import RunState
from perdure_eventstore.append import Append, Appended
from perdure_eventstore.errors import LogError

if TYPE_CHECKING:
    from perdure_engine.held_run import HeldRun


class Placement(Protocol):
    """Where scheduled tasks begin."""

    def take(self, run: "HeldRun", state: RunState, task_id: str) -> BeginAttempt | None:
        """Take a slot for a task scheduled in ``state``, here or elsewhere, or have it begin when there is one."""

    def give_back(self, run: "HeldRun", begun: Sequence[BeginAttempt]) -> None:
        """Return the slots of attempts that do not begin."""

    def assigned(self, run: "HeldRun", events: Sequence[RunEvent]) -> list[dict[str, Any]]:
        """The rows of attempts in ``events`` that other nodes are to execute."""


class Owner(Protocol):
    """What a run needs of the node that holds it."""

    node_id: UUID
    metadata: bytes

    @property
    def placement(self) -> Placement:
        """Where its scheduled tasks begin."""

    def now(self) -> datetime:
        """Now, by the database's clock."""

    def submit(self, append: Append, answer: Callable[[Appended | LogError], None]) -> None:
        """Append with the next group commit."""

    def committed(self, run: "HeldRun", events: Sequence[RunEvent]) -> None:
        """``events`` are on the disk, and the run's state is the one after them."""

    def failed(self, run: "HeldRun", error: LogError) -> None:
        """An append did not go through, for good."""

    def consumed(self, inbox: Sequence[int], *, recorded: bool) -> None:
        """These inbox rows are decided: ``recorded`` ones were deleted in an append, the others made no event."""

    def undecided(self, inbox: Sequence[int]) -> None:
        """These inbox rows were not decided on, and are still there."""

    def caught_up(self, run: "HeldRun", *, was_unknown: bool) -> None:
        """The run's state is the one after events that others appended, or of an append whose outcome was unknown.

        ``was_unknown``: that there was such a run was not known here.
        """

    def idle(self, run: "HeldRun") -> None:
        """Nothing is waiting to be decided or recorded."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> object:
        """Run ``work`` beside, as long as the owner owns."""

    async def reload(self, run: "HeldRun") -> Loaded:
        """The run's state and head with what others appended."""

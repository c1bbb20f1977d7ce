"""What a run needs of the node that holds it."""

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from perdure_engine.history import Loaded
from perdure_engine.run.commands import BeginAttempt
from perdure_engine.run.events import RunEvent
from perdure_eventstore.append import Append, Appended
from perdure_eventstore.errors import LogError

if TYPE_CHECKING:
    from perdure_engine.held_run import HeldRun


class Owner(Protocol):
    """What a run needs of the node that holds it."""

    node_id: UUID
    metadata: bytes

    def now(self) -> datetime:
        """Now, by the database's clock."""

    def submit(self, append: Append, answer: Callable[[Appended | LogError], None]) -> None:
        """Append with the next group commit."""

    def take_slot(self, run: "HeldRun", task_id: str) -> bool:
        """Reserve a slot for a scheduled task, or remember it for when one is free."""

    def begin(self, run: "HeldRun", task_id: str) -> BeginAttempt:
        """The command that starts a scheduled task in the slot taken for it."""

    def give_back(self, slots: int) -> None:
        """Return slots that nothing runs in any more."""

    def committed(self, run: "HeldRun", events: Sequence[RunEvent]) -> None:
        """``events`` are on the disk, and the run's state is the one after them."""

    def failed(self, run: "HeldRun", error: LogError) -> None:
        """An append did not go through, for good."""

    def consumed(self, inbox: Sequence[int], *, recorded: bool) -> None:
        """These inbox rows are decided: ``recorded`` ones were deleted in an append, the others made no event."""

    def caught_up(self, run: "HeldRun") -> None:
        """The run's state is the one after events that others appended, or of an append whose outcome was unknown."""

    def idle(self, run: "HeldRun") -> None:
        """Nothing is waiting to be decided or recorded."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> object:
        """Run ``work`` beside, as long as the owner owns."""

    async def reload(self, run: "HeldRun") -> Loaded:
        """The run's state and head with what others appended."""

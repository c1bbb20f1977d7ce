"""What a task can raise to end its tries, and what the engine refuses about task types."""

from collections.abc import Sequence
from difflib import get_close_matches

from perdure_engine.faults import Fault


class NoRetry(Exception):
    """Raise it, or a subclass, and the task is not tried again. Its message becomes the failure's."""


class InputsInvalid(NoRetry):
    """A task's inputs do not fit its handler. ``faults`` holds every reason with its place in the inputs."""

    def __init__(self, task_type: str, faults: Sequence[Fault]) -> None:
        self.task_type = task_type
        self.faults = tuple(faults)
        super().__init__(f"the inputs of {task_type} are refused: " + "; ".join(str(fault) for fault in self.faults))


class OutputInvalid(NoRetry):
    """What a handler returned cannot be written as JSON. Never retried: its work is done, only the answer is not."""

    def __init__(self, task_type: str, reason: str) -> None:
        self.task_type = task_type
        super().__init__(f"the output of {task_type} cannot be written as JSON: {reason}")


class TransactionIsOurs(NoRetry):
    """Who was lent the engine's transaction tried to end it."""

    def __init__(self, verb: str, who: str = "an exactly-once task", beside: str = "completion") -> None:
        super().__init__(
            f"{who} may not {verb}: the engine commits its work together with its {beside}; "
            "use begin_nested() for a part that may fail"
        )


class TaskTypeRefused(ValueError):
    """A task type cannot be added. The message says why, and what would be right."""


class UnknownTaskType(LookupError):
    """No task type has this name. ``near`` holds the names most like it."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        self.near = tuple(get_close_matches(name, known, n=3, cutoff=0.6))
        hint = f"did you mean {' or '.join(self.near)}?" if self.near else f"there are {', '.join(known) or 'none'}"
        super().__init__(f"there is no task type {name!r:.60}; {hint}")

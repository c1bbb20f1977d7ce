"""What a shape of runs is: a workflow, what is done to its runs from outside, and what becomes of its tasks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Script = Literal[
    "start", "publish", "publish in a transaction", "order", "approve", "hold", "pause", "announce", "cancel",
    "cancel somewhen", "leave", "leave paused",
]  # fmt: skip
"""What the harness does with a run; see ``errands``."""

End = Literal["by its tasks", "RunCancelled", "RunTimedOut", "open"]


@dataclass(frozen=True)
class Fate:
    """What becomes of a task that is ready, if nothing prevents it."""

    output: Callable[[int], Any] | None = None
    """Of the run's number; None where it is not known beforehand."""
    stumbles: int = 0
    """So many of its first attempts do not complete."""
    fails: bool = False
    """None completes."""
    attempts: int = 0
    """The most of them that may fail; 0 is what the definition says of the task."""
    errors: frozenset[str] = frozenset()
    """What its handler raises, by the errors' types."""
    guard: Callable[[int], bool] = lambda _: True
    """Its ``when``."""


@dataclass(frozen=True)
class Shape:
    """A workflow of the harness's."""

    definition: Mapping[str, Any]
    fates: Mapping[str, Fate]
    share: int
    """Of 100 runs, roughly; see ``early``."""
    script: Script = "start"
    end: End = "by its tasks"
    output: Callable[[int], Any] | None = None
    """Of a run that completed with nothing in its way."""
    comes: bool = True
    """Whether the events its tasks wait for come."""
    early: bool = False
    """So many runs of it in all, all in the first third: each costs much time."""

    @property
    def name(self) -> str:
        """The workflow's."""
        name: str = self.definition["workflow_id"]
        return name

    def tasks(self) -> dict[str, Mapping[str, Any]]:
        """The definition's tasks, by id."""
        return {each["task_id"]: each for each in self.definition["tasks"]}


@dataclass
class Life:
    """One run, as the harness knows it."""

    shape: Shape
    number: int
    run: str = ""
    """Its id; empty for one that an event starts."""
    event: str = ""
    """The event that starts it."""
    events: list[str] = field(default_factory=list)
    """Those for this run alone that were acknowledged."""
    cancelled: bool = False
    """Its cancel was sent."""
    held: bool = False
    """It was acknowledged that it is to be paused while it cannot end."""


def plus(n: int) -> Fate:
    """Completes with the run's number and ``n`` more."""
    return Fate(lambda number: number + n)

"""A definition as the engine runs it: checked, compiled, immutable.

A task's trigger is held in one normal form: *any of* its clauses, each *all of* its conditions. ``depends_on`` is
folded into every clause. A condition is the end of another task or an outside event, and each comes true or dies
exactly once in a run, so a run only has to count what a clause still lacks.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from perdure_engine.faults import Fault
from perdure_engine.templates import Expression, Template
from perdure_eventstore.door import Json

On = Literal["completed", "failed", "skipped", "done", "ended"]
"""Which ends of a task hold: ``done`` is completed or skipped, ``ended`` is any."""


Delivery = Literal["at_least_once", "at_most_once"]
"""Whether an attempt that was interrupted or failed may be followed by another."""


class TaskEnd(NamedTuple):
    """True when ``task_id`` ends as ``on`` says; ``task_id`` None is the first completion of any other task."""

    task_id: str | None
    on: On


class EventTrigger(msgspec.Struct, frozen=True):
    """An outside event a run latches once. ``index`` is its place in ``Definition.events``."""

    index: int
    name: str
    where: Expression | None = None
    within: float | None = None
    """Seconds from the run's start after which it can no longer come true; None waits for ever."""
    entry: bool = False
    """It starts a run, and is dead in a run that another entry started."""


class Clause(msgspec.Struct, frozen=True):
    """All of these together make the task ready; none at all makes it ready at the run's start."""

    ends: tuple[TaskEnd, ...] = ()
    events: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many conditions must come true."""
        return len(self.ends) + len(self.events)


class Retry(msgspec.Struct, frozen=True):
    """How often and how fast a task is tried again. Times are seconds.

    The wait before attempt n + 1 is ``initial * multiplier ** (n - 1)``, at most ``maximum``, plus up to
    ``jitter`` seconds drawn at random.
    """

    attempts: int = 3
    initial: float = 1.0
    multiplier: float = 2.0
    maximum: float = 60.0
    jitter: float = 1.0


class Concurrency(msgspec.Struct, frozen=True):
    """At most ``limit`` attempts of one key at once. The same text is the same key in every workflow."""

    key: Template
    limit: int


class TaskSpec(msgspec.Struct, frozen=True):
    """A task of a definition."""

    task_id: str
    type: str
    inputs: Template
    clauses: tuple[Clause, ...]
    lacks: tuple[int, ...]
    """How many conditions each clause lacks at first: their sizes."""
    when: Expression | None = None
    retry: Retry | None = None
    """The task's own policy or the definition's default; None leaves it to the task type, then the engine."""
    timeout: float | None = None
    """Seconds an attempt may take from its start; None as for ``retry``."""
    schedule_to_start: float | None = None
    """Seconds it may wait for its start once it is scheduled; None is for ever."""
    heartbeat: float | None = None
    """Seconds within which an attempt must give a sign of life; None as for ``retry``."""
    delay: Template | None = None
    """How long it waits once it is ready: a duration."""
    delivery: Delivery | None = None
    """None as for ``retry``."""
    concurrency: Concurrency | None = None
    """How many attempts of a key may be under way at once, of all tasks that have that key."""
    priority: int = 0
    """Who waits for a slot goes before those of a lower priority, though not for ever."""
    proceed_on_failure: bool = False
    """``on_failure: continue``: a failure counts as done."""
    fixed_inputs: Json | None = None
    """Its inputs, if neither they nor anything else about it depends on the run: then nothing has to be resolved."""
    handles: frozenset[str] = frozenset()
    """The tasks whose ``T.failed`` triggers this one: when it completes, their failure is handled."""

    @property
    def is_sleep(self) -> bool:
        """It has no type: its delay is all there is to it."""
        return not self.type


class Dependent(NamedTuple):
    """A clause that something touches."""

    task_id: str
    clause: int


class EndDependent(NamedTuple):
    """A clause that waits for a task's end, and for which end."""

    task_id: str
    clause: int
    on: On


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a workflow, compiled."""

    workflow_id: str
    digest: str
    """SHA-256 of the canonical document, in hex."""
    document: bytes
    """The canonical JSON: keys sorted, no white space."""
    tasks: Mapping[str, TaskSpec]
    """In document order."""
    events: tuple[EventTrigger, ...]
    """Every distinct event trigger; the same name, ``where`` and ``within`` is one."""
    entries: frozenset[str]
    """Names of the events that start a run."""
    listeners: Mapping[str, tuple[int, ...]]
    """Event name to the indexes in ``events`` that listen for it."""
    event_dependents: tuple[tuple[Dependent, ...], ...]
    """For each event trigger, the clauses it belongs to."""
    end_dependents: Mapping[str, tuple[EndDependent, ...]]
    """Task id to the clauses that wait for its end."""
    any_completion: tuple[Dependent, ...]
    """The clauses that wait for the first completion of any other task."""
    roots: tuple[str, ...]
    """Tasks with no task-end condition in any clause."""
    key: Template | None = None
    fail_fast: bool = False
    output: Template | None = None
    deadline: float | None = None
    """Seconds a run may take from its start; None is for ever."""
    has_keys: bool = False
    """Whether any of its tasks has a concurrency key."""
    warnings: tuple[Fault, ...] = ()
    """What may be a mistake, in document order."""

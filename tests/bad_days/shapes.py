"""The runs of a node's hard life: what each shape is, what is done to its runs, and how they have to end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from applications import task, workflow

Script = Literal[
    "start", "publish", "publish in a transaction", "order", "approve", "hold", "pause", "announce", "cancel",
    "cancel somewhen", "leave", "leave paused",
]  # fmt: skip
"""What the harness does with a run; see ``errands``."""

End = Literal["by its tasks", "RunCancelled", "RunTimedOut", "open"]

AGAIN = {"attempts": 8, "initial": 0.1, "maximum": 0.5, "jitter": 0.1}
TWICE = {"attempts": 2, "initial": 0.1, "jitter": 0}
LIMITS = {"one": 1, "two": 2}
"""Attempts at once of a concurrency key, by the key's first word."""

TYPES = (
    "work", "craft", "flaky", "hang", "deaf", "thread", "beat", "book", "send", "gate", "deadly", "odd", "greedy",
)  # fmt: skip
"""Every task type that some node has."""


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


def out(task_id: str) -> dict[str, str]:
    """The inputs that are another task's output."""
    return {"n": f"{{{{tasks.{task_id}.output}}}}"}


N = {"n": "{{n}}"}
RAISED = frozenset({"RuntimeError", "SystemExit", "Unspeakable", "UnicodeError"})
WAIT = "10m"


def _chain(name: str, *tasks: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return workflow(name, task("a", inputs=N), *[dict(each) for each in tasks], **more)


def _fan(width: int) -> Shape:
    first = task("a", "fan_began", inputs=N)
    middle = [
        task(f"m{n}", "a.completed", type="craft" if n % 2 else "work", inputs=out("a"), priority=n)
        for n in range(width)
    ]
    join = task("z", depends_on=[each["task_id"] for each in middle], inputs=out(f"m{width - 1}"))
    del join["triggers"]
    fates = {"a": plus(1), "z": plus(3), **{each["task_id"]: plus(2) for each in middle}}
    definition = workflow("fan", first, *middle, join, output={"n": "{{tasks.z.output}}"})
    return Shape(definition, fates, 4, "publish", output=lambda n: {"n": n + 3})


def _straight() -> list[Shape]:
    chain = _chain(
        "chain",
        task("b", "a.completed", type="craft", inputs=out("a")),
        task("c", "b.completed", inputs=out("b")),
        task("d", "c.completed", type="craft", inputs=out("c")),
        output="{{tasks.d.output}}",
    )
    fates = {"a": plus(1), "b": plus(2), "c": plus(3), "d": plus(4)}
    long = _chain(
        "long",
        task("t1", "a.completed"),
        *[task(f"t{n}", f"t{n - 1}.completed", type="work" if n % 2 else "craft") for n in range(2, 9)],
    )
    long_fates = {each["task_id"]: Fate() for each in long["tasks"]}
    started = {**chain, "workflow_id": "started"}
    started["tasks"] = [{**chain["tasks"][0], "triggers": ["started_began"]}, *chain["tasks"][1:]]
    in_transaction = {**started, "workflow_id": "in_transaction"}
    in_transaction["tasks"] = [{**chain["tasks"][0], "triggers": ["in_transaction_began"]}, *chain["tasks"][1:]]
    return [
        Shape(chain, fates, 8, output=lambda n: n + 4),
        Shape(started, fates, 6, "publish", output=lambda n: n + 4),
        Shape(in_transaction, fates, 4, "publish in a transaction", output=lambda n: n + 4),
        Shape(long, long_fates, 6, "pause"),
        Shape({**chain, "workflow_id": "stopped"}, fates, 4, "cancel somewhen"),
    ]


def _failing() -> list[Shape]:
    stumble = _chain(
        "stumble",
        task("b", "a.completed", type="flaky", inputs={**N, "times": 2}, retry=AGAIN),
        task("c", "b.completed", inputs=N),
    )
    broken = _chain(
        "broken",
        task("b", "a.completed", type="flaky", inputs={**N, "times": 99}, retry=TWICE),
        task("c", "b.completed", inputs=N),
        task("d", "a.completed", inputs=N),
        task("e", "b.ended", inputs=N),
    )
    handled = _chain(
        "handled",
        task("b", "a.completed", type="flaky", inputs={**N, "times": 99}, retry=TWICE),
        task("c", "b.failed", inputs=N),
        task("d", "a.completed", type="flaky", inputs={**N, "times": 99}, retry=TWICE, on_failure="continue"),
        task("e", "d.done", inputs=N),
    )
    branch = _chain(
        "branch",
        task("big", "a.completed", when="input.n % 2 == 0", inputs=N),
        task("small", "a.completed", type="craft", when="input.n % 2 == 1", inputs=N),
        task("both", depends_on=["a"], inputs=N),
        task("z", {"all": ["big.done", "small.done"]}, inputs=N),
    )
    branch["tasks"][3].pop("triggers")
    ones = {name: plus(1) for name in "abcde"}
    never = Fate(fails=True, errors=RAISED)
    return [
        Shape(stumble, {"a": plus(1), "b": Fate(lambda n: n + 1, stumbles=2, errors=RAISED), "c": plus(1)}, 6),
        Shape(broken, ones | {"b": never}, 3),
        Shape(handled, ones | {"b": never, "d": never}, 3),
        Shape(
            branch,
            {
                "a": plus(1), "both": plus(1), "z": plus(1),
                "big": Fate(lambda n: n + 1, guard=lambda n: n % 2 == 0),
                "small": Fate(lambda n: n + 1, guard=lambda n: n % 2 == 1),
            },
            3,
        ),
    ]  # fmt: skip


def _slow() -> list[Shape]:
    def late(name: str, type_: str, **more: Any) -> dict[str, Any]:
        late_task = task("b", "a.completed", type=type_, inputs={**N, "times": 1}, retry=AGAIN, **more)
        return _chain(name, late_task, task("c", "b.completed", inputs=N))

    fates = {"a": plus(1), "b": Fate(lambda n: n + 1, stumbles=1), "c": plus(1)}
    nobody = workflow(
        "nobody",
        task("a", type="nobody", schedule_to_start=0.5, retry=TWICE),
        task("b", "a.failed", inputs=N),
    )
    deadline = workflow("deadline", task("a", type="hang", inputs={**N, "times": 99}), deadline=3)
    delayed = _chain(
        "delayed",
        {"task_id": "nap", "triggers": ["a.completed"], "delay": 1.5},
        task("b", "nap.completed", type="craft", inputs=N, delay="{{pause}}"),
    )
    return [
        Shape(late("hanging", "hang", timeout=0.4), fates, 3),
        Shape(late("deaf", "deaf", timeout=0.4), fates, 1),
        Shape(late("thread", "thread", timeout=0.4), fates, 2),
        Shape(late("beating", "beat", heartbeat=0.6), fates, 3),
        Shape(nobody, {"a": Fate(fails=True), "b": plus(1)}, 2),
        Shape(deadline, {}, 2, end="RunTimedOut"),
        Shape(delayed, {"a": plus(1), "nap": Fate(), "b": plus(1)}, 4),
    ]


def _promised() -> list[Shape]:
    booking = _chain(
        "booking",
        task("b", "a.completed", type="book"),
        task("c", "b.completed", type="book"),
        task("d", "a.completed", type="book"),
        task("z", {"all": ["c.completed", "d.completed"]}, inputs=N),
    )
    once = _chain(
        "once",
        task("b", "a.completed", type="send", delivery="at_most_once", retry=AGAIN),
        task("c", "b.completed", inputs=N),
        task("d", "b.failed", inputs=N),
    )
    gates = workflow(
        "gates",
        *[
            task(f"g{n}", type="gate", inputs=N, concurrency={"key": f"{word} {{{{n % 4}}}}", "limit": LIMITS[word]})
            for n, word in enumerate(("two", "two", "one"))
        ],
        task("z", {"all": ["g0.completed", "g1.completed", "g2.completed"]}, inputs=N),
    )
    return [
        Shape(booking, {"a": plus(1), "z": plus(1), **{name: Fate() for name in "bcd"}}, 8),
        Shape(once, {"a": plus(1), "b": Fate(), "c": plus(1), "d": plus(1)}, 6),
        Shape(gates, {"z": plus(1), **{f"g{n}": plus(1) for n in range(3)}}, 5),
    ]


def _evil() -> list[Shape]:
    deadly = _chain("deadly", task("b", "a.completed", type="deadly"), task("c", "b.failed", inputs=N))
    ones = {"a": plus(1), "c": plus(1)}

    def odd(name: str, kind: str) -> dict[str, Any]:
        return _chain(
            name,
            task("b", "a.completed", type="odd", inputs={"kind": kind}, retry=AGAIN),
            task("c", "b.failed", inputs=N),
        )

    refused = Fate(fails=True, attempts=1, errors=frozenset({"PayloadRefused", "OutputInvalid"}))
    greedy = _chain(
        "greedy",
        task("b", "a.completed", type="greedy", inputs={**N, "times": 1}, retry=AGAIN),
        task("c", "b.completed", inputs=N),
    )
    exhausted = Fate(lambda n: n + 1, stumbles=1, errors=frozenset({"MemoryError"}))
    return [
        Shape(deadly, ones | {"b": Fate(fails=True, attempts=-1)}, 2, early=True),
        *[Shape(odd(f"odd_{kind}", kind), ones | {"b": refused}, 1) for kind in ("nan", "surrogate", "object")],
        Shape(odd("odd_big", "big"), ones | {"b": refused}, 2, early=True),
        Shape(greedy, ones | {"b": exhausted}, 2),
    ]


def _steered() -> list[Shape]:
    def waiting(name: str, event: Any = None, **more: Any) -> dict[str, Any]:
        event = event or {"event": "approved", "within": WAIT}
        return _chain(name, task("b", {"all": ["a.completed", event]}, inputs=N), **more)

    ones = {"a": plus(1), "b": plus(1)}
    order = workflow(
        "order",
        task("a", "order_placed", inputs=N),
        task("b", {"all": ["a.completed", {"event": "order_paid", "within": WAIT}]}, inputs=N),
        task("c", "b.completed", type="craft", inputs=out("b")),
        key="{{event.payload.order}}",
    )
    announced = {"event": "announced", "where": "event.payload.n == input.n", "within": WAIT}
    sleeper = workflow("sleeper", task("a", type="hang", inputs={**N, "times": 99}))
    return [
        Shape(order, ones | {"c": plus(2)}, 8, "order"),
        Shape(waiting("approval"), ones, 5, "approve"),
        Shape(waiting("held"), ones, 4, "hold"),
        Shape(waiting("announcement", announced), ones, 2, "announce"),
        Shape(waiting("forgotten"), ones, 3, "cancel", "RunCancelled", comes=False),
        Shape(sleeper, {}, 2, "cancel", "RunCancelled"),
        Shape(waiting("idle"), ones, 1, "leave", "open", comes=False),
        Shape(waiting("frozen"), ones, 1, "leave paused", "open"),
    ]


SHAPES = [*_straight(), _fan(10), *_failing(), *_slow(), *_promised(), *_evil(), *_steered()]

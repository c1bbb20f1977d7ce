"""Any definition, any order of what can happen: the core agrees with a naive reading of the rules, and with itself."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure_engine.definitions.definition import Definition
from perdure_engine.run import RunState, advance, new_run
from perdure_engine.run import commands as c
from perdure_engine.run import events as e
from perdure_engine.run.codec import decode, encode
from perdure_eventstore.door import Json
from perdure_eventstore.events import RecordedEvent

from .documents import EVENTS, compiled, documents
from .given import (
    AT,
    RUN,
    begin,
    cancel,
    complete,
    deadline_due,
    fail,
    fold,
    interrupt,
    retry_due,
    stop,
    time_out,
    wait_due,
)
from .naive import Checker

START = UUID(int=1)
LONGEST = 60
FEW = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)  # fmt: skip


def reloaded(event: e.RunEvent) -> e.RunEvent:
    """``event`` written to the log and read back."""
    new = encode(event, b"{}")
    return decode(
        RecordedEvent(
            1, AT, RUN, 1, new.schema_version, RUN, new.type, new.data, new.metadata, new.payload, None, None, b""
        )
    )


class Shell:
    """Does what a node would: knows the run by its log alone, and gives each command twice."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.definition = compiled(document)
        self.log: list[e.RunEvent] = []
        self.state = new_run(self.definition, RUN)
        self.payloads: dict[UUID, Any] = {}
        self.checker = Checker(document, self.payloads)

    def give(self, command: c.RunCommand) -> list[e.RunEvent]:
        """Decide, record, reload, check."""
        events, state = advance(self.state, command)
        assert advance(state, command) == ([], state), "a repeated command makes no difference"
        read = [reloaded(event) for event in events]
        assert read == events
        self.state = fold(self.state, read)
        assert self.state == state
        self.log += events
        for event in events:
            self.checker.see(event)
        self.checker.settled(state)
        return events

    def start(self, event: str | None, payload: Any) -> None:
        """Begin the run."""
        self.payloads[START] = payload
        self.give(c.StartRun(at=AT, input=Json.of(payload), event=event, event_id=START if event else None))

    def publish(self, name: str, number: int, payload: Any) -> None:
        """An event; the same ``number`` is the same event."""
        id_ = UUID(int=number)
        self.payloads.setdefault(id_, payload)
        self.give(c.ReceiveEvent(at=AT, event=name, event_id=id_, payload=Json.of(self.payloads[id_])))

    def possible(self) -> list[c.RunCommand]:
        """What a node could say now, beside events from outside."""
        found: list[c.RunCommand] = []
        for task_id in self.definition.tasks:
            task = self.state.task(task_id)
            if task.status == "scheduled":
                found += [begin(task_id)] * 3
            elif task.status == "retrying":
                found.append(retry_due(task_id))
            elif task.status == "started":
                found += _ends(task_id, task.attempt, self.state)
        if self.state.status == "open":
            found += [wait_due(trigger) for trigger in self.state.live_waits if self._has_end(trigger)]
            found += [deadline_due()] if self.definition.deadline else []
        return found

    def drain(self, draw: Callable[[Sequence[c.RunCommand]], c.RunCommand]) -> None:
        """Go on until nothing is left to do."""
        for _ in range(2_000):
            found: list[c.RunCommand] = [each for each in self.possible() if not isinstance(each, c.InterruptAttempt)]
            if not found:
                return
            self.give(draw(found))
        raise AssertionError("the run does not come to rest")

    def _has_end(self, trigger: int) -> bool:
        return self.definition.events[trigger].within is not None


def _ends(task_id: str, attempt: int, state: RunState) -> list[c.RunCommand]:
    ends: list[c.RunCommand] = [
        *[complete(task_id, 1, attempt)] * 3,
        fail(task_id, attempt),
        fail(task_id, attempt, max_attempts=3),
        time_out(task_id, attempt, max_attempts=2),
        interrupt(task_id, attempt),
        interrupt(task_id, attempt, clean=True),
    ]
    return [*ends, cancel(task_id, attempt)] if state.status == "stopping" else ends


@FEW
@given(documents(), st.data())
def test_whatever_happens_the_core_does_what_the_rules_say(document: dict[str, Any], data: st.DataObject) -> None:
    shell = Shell(document)
    shell.start(data.draw(_starts(shell.definition)), {"n": data.draw(st.integers(0, 2))})
    for number in range(2, data.draw(st.integers(2, LONGEST))):
        outside = data.draw(st.integers(0, 11))
        possible = shell.possible()
        if outside == 0 and data.draw(st.integers(0, 5)) == 0:
            shell.give(stop(data.draw(st.sampled_from(["cancelled", "timed_out", "failed"]))))
        elif outside <= 3 or not possible:
            again = data.draw(st.integers(0, 3)) == 0
            name = data.draw(st.sampled_from((*EVENTS, "unheard")))
            shell.publish(name, data.draw(st.integers(1, number)) if again else number, {"n": number % 3})
        else:
            shell.give(data.draw(st.sampled_from(possible)))
    shell.drain(lambda found: data.draw(st.sampled_from(found)))
    if not shell.state.is_ended:
        assert shell.state.live_waits, "a run that waits for nothing has not ended"
        shell.give(stop())
    assert shell.state.is_ended
    assert sum(isinstance(event, e.RUN_ENDED) for event in shell.log) == 1
    assert fold(new_run(shell.definition, RUN), map(reloaded, shell.log)) == shell.state


def _starts(definition: Definition) -> st.SearchStrategy[str | None]:
    return st.sampled_from([*sorted(definition.entries), None])


@FEW
@given(documents(), st.data())
def test_a_crash_after_any_decision_makes_no_difference_to_those_that_follow(
    document: dict[str, Any], data: st.DataObject
) -> None:
    """One process decides straight on; the other knows only the log, from its first event, each time anew."""
    shell = Shell(document)
    definition = shell.definition
    straight, log = new_run(definition, RUN), list[e.RunEvent]()
    command: c.RunCommand = c.StartRun(at=AT, input=Json.of({"n": 1}), event="go", event_id=START)
    for _ in range(data.draw(st.integers(1, 25))):
        events, straight = advance(straight, command)
        shell.state = fold(new_run(definition, RUN), map(reloaded, log))
        assert advance(shell.state, command) == (events, straight)
        log += events
        shell.state = straight
        possible = [*shell.possible(), *([stop()] if len(log) > 20 else [])]
        if not possible:
            break
        command = data.draw(st.sampled_from(possible))


@FEW
@given(documents(alone=True), st.data())
def test_rule_12_the_siblings_speed_never_changes_the_outcome(document: dict[str, Any], data: st.DataObject) -> None:
    failing = data.draw(st.sets(st.sampled_from([task["task_id"] for task in document["tasks"]])))
    one, other = (_ends_of(Shell(document), failing, data) for _ in range(2))
    assert one == other


def _ends_of(shell: Shell, failing: set[str], data: st.DataObject) -> tuple[dict[str, str], list[e.RunEvent]]:
    """How each task and the run ends, where what each task does is fixed and its speed is not."""
    shell.start("go", {"n": 1})

    def draw(found: Sequence[c.RunCommand]) -> c.RunCommand:
        return data.draw(st.sampled_from([each for each in found if _is_as_fixed(each, failing)]))

    shell.drain(draw)
    assert shell.state.is_ended
    return {each: shell.state.task(each).status for each in shell.state.definition.tasks}, shell.log[-1:]


def _is_as_fixed(command: c.RunCommand, failing: set[str]) -> bool:
    match command:
        case c.CompleteAttempt():
            return command.task_id not in failing
        case c.FailAttempt():
            return command.task_id in failing and command.max_attempts == 1
        case c.TimeOutAttempt() | c.InterruptAttempt():
            return False
    return True

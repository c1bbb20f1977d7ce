"""What is recorded when a decision raises, which it never should: a failure that people see, and no silence."""

from collections.abc import Iterator
from datetime import datetime

from perdure_engine.run import commands as c
from perdure_engine.run import events as e
from perdure_engine.run.decide import advance
from perdure_engine.run.evolve import evolve
from perdure_engine.run.state import RunState
from perdure_eventstore.door import Json


def fail_instead(
    state: RunState, command: c.RunCommand, error: Exception, at: datetime
) -> tuple[list[e.RunEvent], RunState, list[Exception]]:
    """In place of ``command``, whose decision raised ``error``: its attempt fails, or else its run, or else at once.

    Returns the events, the state after them, and what else was raised on the way.
    """
    raised: list[Exception] = []
    first: list[e.RunEvent] = []
    if isinstance(command, c.ReceiveEvent) and command.event_id not in state.seen:
        # That it came is a fact all the same.
        first.append(e.EventIgnored(event=command.event, event_id=command.event_id, reason=_reason(command)))
        state = evolve(state, first[0])
    for instead in _milder_first(command, error, at):
        try:
            events, after = advance(state, instead)
        except Exception as another:
            raised.append(another)
            continue
        if events:
            return first + events, after, raised
    if state.is_ended:
        return first, state, raised
    end = e.RunFailed(error=_described(command, error))
    return [*first, end], evolve(state, end), raised


def _milder_first(command: c.RunCommand, error: Exception, at: datetime) -> Iterator[c.RunCommand]:
    attempts = c.CompleteAttempt, c.FailAttempt, c.TimeOutAttempt, c.InterruptAttempt, c.CancelAttempt
    if isinstance(command, attempts):
        yield c.FailAttempt(at=at, task_id=command.task_id, attempt=command.attempt, error=_described(command, error))
    yield c.StopRun(at=at, outcome="failed", reason=_reason(command))


def _reason(command: c.RunCommand) -> str:
    # Not payload, so it may not say what the error says.
    return f"a {_name(command)} could not be decided; see the log"


def _described(command: c.RunCommand, error: Exception) -> Json:
    message = f"what follows from a {_name(command)} could not be decided: {type(error).__name__}: {_text(error)}"
    return Json.of({"type": "Undecided", "message": message[:2_000]})


def _text(error: Exception) -> str:
    try:
        return str(error).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    except Exception:
        return "(its message cannot be read)"


def _name(command: c.RunCommand) -> str:
    return type(command).__name__

"""Keys: which are known, which will be, and what an unknown one was probably meant to be."""

from collections.abc import Iterable

from perdure_engine.definitions.pointers import child
from perdure_engine.definitions.report import Report
from perdure_engine.definitions.schema import KEYS

NOT_YET = frozenset(
    {
        "approval",
        "compensate",
        "compensation",
        "emit",
        "for_each",
        "limits",
        "schedule",
        "schedules",
        "tolerate",
        "workflow",
    }
)
"""Keys of a later release: refused by name, so that nobody hunts for a spelling."""

_INSTEAD_OF_TYPE = frozenset({"approval", "delay", "workflow"})
"""A task with one of these needs no type."""

_OTHER_WORDS = {
    "definition": {
        "id": "workflow_id",
        "steps": "tasks",
        "timeout": "deadline",
        "outputs": "output",
        "result": "output",
    },
    "task": {
        "id": "task_id",
        "name": "task_id",
        "uses": "type",
        "input": "inputs",
        "retries": "retry",
        "handler": "type",
        "action": "type",
        "with": "inputs",
        "args": "inputs",
        "params": "inputs",
        "parameters": "inputs",
        "on": "triggers",
        "needs": "depends_on",
        "requires": "depends_on",
        "after": "depends_on",
        "if": "when",
        "condition": "when",
        "catch": "on_failure",
        "continue_on_error": "on_failure",
        "sleep": "delay",
        "wait": "delay",
        "heartbeat_timeout": "heartbeat",
        "schedule_to_start_timeout": "schedule_to_start",
        "start_to_close": "timeout",
        "start_to_close_timeout": "timeout",
    },
    "retry": {
        "max_attempts": "attempts",
        "retries": "attempts",
        "delay": "initial",
        "backoff": "multiplier",
        "factor": "multiplier",
        "max_delay": "maximum",
        "max": "maximum",
    },
    "trigger": {"name": "event", "if": "where", "when": "where", "condition": "where", "timeout": "within"},
}
"""What other systems call the same thing."""


def check_keys(value: Iterable[str], place: str, pointer: str, report: Report) -> None:
    """Report each key that ``place`` (a key of ``KEYS``) does not have."""
    known = KEYS[place]
    for key in value:
        if key in known or key.startswith("x-"):
            continue
        if key in NOT_YET and place in ("definition", "task"):
            report.fault(child(pointer, key), f"`{key}` is not supported yet")
        elif place == "trigger" and key == "any":
            report.fault(child(pointer, key), "a list of triggers is any of them already: write each by itself")
        else:
            report.fault(child(pointer, key), f"there is no key `{key}` here{_suggestion(key, place, report)}")


def type_may_be_missing(keys: Iterable[str]) -> bool:
    """Whether another key stands in the place of ``type``; of one that a later release brings, one fault is enough."""
    return not _INSTEAD_OF_TYPE.isdisjoint(keys)


def _suggestion(key: str, place: str, report: Report) -> str:
    other = _OTHER_WORDS.get(place, {}).get(key.lower())
    if other:
        return f"; did you mean `{other}`?"
    return report.near(key, KEYS[place]) or f"; there is {', '.join(f'`{each}`' for each in KEYS[place])}"

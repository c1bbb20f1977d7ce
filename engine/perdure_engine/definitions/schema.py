"""The JSON Schema (draft-07) of the definition language, for editors and for other tools.

It says the shape. What a shape cannot say (that tasks exist, that joins can hold) is said by ``compile_definition``.
The keys the seed's schema names are no narrower here than there.
"""

import copy
from collections.abc import Mapping
from typing import Any

_FREE = {"^x-": {"description": "Yours: Perdure keeps it and does not read it."}}

_TEXT: dict[str, Any] = {"type": "string"}
_DURATION: dict[str, Any] = {
    "description": "A duration: seconds as a number, or text like `90s`, `15m`, `2h`, `1d`, `500ms`.",
    "oneOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?(ms|s|m|h|d)\s*$"},
    ],
}
_EVENT_NAME: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 256}


def _object(description: str, properties: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": dict(properties),
        "patternProperties": _FREE,
        "additionalProperties": False,
        **more,
    }


def _duration(description: str) -> dict[str, Any]:
    # Keys beside a `$ref` are ignored in draft-07, and editors show the description that stands beside `allOf`.
    return {"description": description, "allOf": [{"$ref": "#/definitions/duration"}]}


def _policy(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "anyOf": [
            {"type": "integer", "minimum": 1},
            {"const": False},
            {"$ref": "#/definitions/retry"},
        ],
    }


_RETRY = _object(
    "How often and how fast a task is tried again. It replaces every less specific policy as a whole.",
    {
        "attempts": {
            "type": "integer",
            "minimum": 1,
            "description": "How often the task is tried in all; 1 never tries again. Default 3.",
        },
        "initial": _duration("The wait before the second attempt. Default 1s."),
        "multiplier": {
            "type": "number",
            "minimum": 1,
            "description": "Each wait is the one before times this. Default 2.",
        },
        "maximum": _duration("The longest wait. Default 60s, or `initial` where that is longer."),
        "jitter": _duration("Up to this much is added to each wait, drawn at random. Default 1s."),
    },
)

_EVENT = _object(
    "An outside event.",
    {
        "event": {
            **_EVENT_NAME,
            "description": "The event's name; written so, it may look like a task's end (`payment.completed`).",
        },
        "where": {
            "type": "string",
            "description": "Only an event for which this expression is true counts: `event.payload.amount > 100`.",
        },
        "within": _duration("How long after the run's start it may come; later, this trigger can no longer come true."),
    },
    required=["event"],
)

_TRIGGER: dict[str, Any] = {
    "description": "What makes the task ready.",
    "anyOf": [
        {
            "type": "string",
            "description": "`T.completed`, `T.failed`, `T.skipped`, `T.done` (completed or skipped) or `T.ended` (any "
            "end) of task T; otherwise an event's name.",
        },
        {"$ref": "#/definitions/event"},
        _object(
            "All of these together.",
            {
                "all": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"anyOf": [_TEXT, {"$ref": "#/definitions/event"}]},
                    "description": "Task ends and events, written as in `triggers`.",
                }
            },
            required=["all"],
        ),
    ],
}

_ON_FAILURE: dict[str, Any] = {
    "enum": ["fail", "continue"],
    "description": "`fail` (the default): a failure nothing handles fails the run. `continue`: it counts as done.",
}

_LIMITS: dict[str, Any] = {
    "timeout": _duration("How long one attempt may take from its start."),
    "schedule_to_start": _duration("How long an attempt may wait for its start; later, it has timed out."),
    "heartbeat": _duration("How long an attempt may go without `task.heartbeat()`; longer, it has timed out."),
    "delivery": {
        "enum": ["at_least_once", "at_most_once"],
        "description": "`at_least_once` (the default): tried again after a failure or the death of its node. "
        "`at_most_once`: never tried again, whatever happened.",
    },
    "priority": {
        "type": "integer",
        "minimum": -100,
        "maximum": 100,
        "description": "Who waits for a slot of a node goes before those of a lower priority; these need not wait for "
        "ever. Default 0.",
    },
}

_CONCURRENCY = _object(
    "A key, and how many attempts of it are under way at once.",
    {
        "key": {
            **_TEXT,
            "description": "A template such as `customer {{customer_id}}`; the same text is the same key.",
        },
        "limit": {"type": "integer", "minimum": 1, "description": "How many at once. Default 1."},
    },
    required=["key"],
)

_TASK = _object(
    "A task: what is done, with which inputs, and when.",
    {
        "task_id": {
            **_TEXT,
            "description": "Its name, unique here: letters, digits, `_` and `-`, at most 128 characters.",
        },
        "type": {**_TEXT, "description": "Which handler does it: a built-in, or one your application registers."},
        "inputs": {
            "type": "object",
            "description": 'What the handler gets. `{{…}}` in text is a template; `{"$literal": …}` passes untouched.',
        },
        "triggers": {
            "type": "array",
            "items": {"$ref": "#/definitions/trigger"},
            "description": "Any one of these makes the task ready; none at all: ready at the run's start.",
        },
        "depends_on": {
            "type": "array",
            "items": _TEXT,
            "description": "Tasks that must all have completed, besides what `triggers` says.",
        },
        "when": {
            "type": "string",
            "description": "Read once, when the triggers hold: the task is skipped if this expression is false.",
        },
        "retry": _policy("How often it is tried: a policy, a number of attempts, or false for one attempt."),
        **_LIMITS,
        "delay": {
            "description": "How long it waits once it is ready: a duration, or a template of one. A task with a "
            "`delay` needs no `type`: it completes when the time is over.",
            "anyOf": [{"$ref": "#/definitions/duration"}, {"type": "string", "pattern": r"\{\{"}],
        },
        "concurrency": {
            "description": "How many attempts of one key are under way at once, over all runs and nodes.",
            "anyOf": [
                {**_TEXT, "description": "The key, a template: one at once."},
                {"$ref": "#/definitions/concurrency"},
            ],
        },
        "on_failure": _ON_FAILURE,
        "description": {**_TEXT, "description": "What it is for, for people."},
    },
    required=["task_id"],
    allOf=[
        {"anyOf": [{"required": ["triggers"]}, {"required": ["depends_on"]}]},
        {"anyOf": [{"required": ["type"]}, {"required": ["delay"]}]},
    ],
)

_DEFAULTS = _object(
    "What holds for every task that does not say otherwise.",
    {
        "retry": _policy("The retry policy."),
        **_LIMITS,
        "on_failure": _ON_FAILURE,
    },
)

_DEFINITION = _object(
    "A Perdure workflow: tasks, and the events and ends of tasks that make them ready.",
    {
        "$schema": {**_TEXT, "description": "Where this schema is, for editors."},
        "workflow_id": {
            **_TEXT,
            "description": "The workflow's name: letters, digits, `_`, `.` and `-`, at most 128 characters.",
        },
        "name": {**_TEXT, "description": "A title, for people."},
        "description": {**_TEXT, "description": "What it is for, for people."},
        "tasks": {
            "type": "array",
            "items": {"$ref": "#/definitions/task"},
            "description": "The tasks, at least one, in any order.",
        },
        "start": {
            "type": "array",
            "items": _EVENT_NAME,
            "description": "The events that start a run. Without it: every event that alone makes a first task ready.",
        },
        "key": {
            **_TEXT,
            "description": "A template such as `{{event.payload.order_id}}`: one open run for each value of it.",
        },
        "defaults": _DEFAULTS,
        "fail_fast": {
            "type": "boolean",
            "description": "After an unhandled failure start nothing new and cancel what is under way. Default false.",
        },
        "output": {
            "description": "The run's result, a template. Without it: the output of each completed task by its id."
        },
        "deadline": _duration("How long a run may take from its start; then it is timed out."),
    },
    required=["workflow_id", "tasks"],
)

_PLACES = {
    "concurrency": _CONCURRENCY,
    "definition": _DEFINITION,
    "task": _TASK,
    "retry": _RETRY,
    "defaults": _DEFAULTS,
    "event": _EVENT,
}

KEYS: Mapping[str, tuple[str, ...]] = {
    **{place: tuple(shape["properties"]) for place, shape in _PLACES.items()},
    "trigger": (*_EVENT["properties"], "all"),
}
"""The keys each kind of object may have, besides ``x-…``."""


def definition_schema() -> dict[str, Any]:
    """The JSON Schema of a definition, a fresh copy."""
    return copy.deepcopy(
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "title": "Perdure workflow definition",
            **_DEFINITION,
            "definitions": {
                "task": _TASK,
                "trigger": _TRIGGER,
                "event": _EVENT,
                "retry": _RETRY,
                "concurrency": _CONCURRENCY,
                "duration": _DURATION,
            },
        }
    )

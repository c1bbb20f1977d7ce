"""Which names a definition may give, and which belong to the engine."""

import re

WORKFLOW_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
TASK_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
LONGEST_ID = 128
LONGEST_EVENT_NAME = 256
LONGEST_KEY = 256
"""Characters of a run's key, and of a concurrency key."""

ANY_COMPLETION = "task_completed"
"""The one engine event a trigger may name: the seed's way to say "when a task has completed"."""

RESERVED_EVENTS = frozenset(
    {
        "task_added",
        "task_cancelled",
        "task_compensated",
        ANY_COMPLETION,
        "task_failed",
        "task_interrupted",
        "task_scheduled",
        "task_skipped",
        "task_started",
        "task_timed_out",
        "run_cancel_requested",
        "run_cancelled",
        "run_completed",
        "run_failed",
        "run_migrated",
        "run_paused",
        "run_resumed",
        "run_rewound",
        "run_started",
        "run_timed_out",
    }
)
"""The engine's own events: ``publish`` refuses them, and so does a trigger."""


def wrong_id(value: str, pattern: re.Pattern[str], what: str) -> str | None:
    """What is wrong with an id, as a sentence; None if nothing is."""
    if len(value) > LONGEST_ID:
        return f"a {what} has at most {LONGEST_ID} characters, not {len(value):,}"
    if not pattern.fullmatch(value):
        marks = "`_`, `.` and `-`" if pattern is WORKFLOW_ID else "`_` and `-`"
        return f"a {what} is made of ASCII letters, digits, {marks}, a letter or `_` first, not {value!r:.60}"
    return None


def wrong_event_name(name: str) -> str | None:
    """What is wrong with an event's name, as a sentence; None if nothing is."""
    if not name:
        return "an event's name is not empty"
    if len(name) > LONGEST_EVENT_NAME:
        return f"an event's name has at most {LONGEST_EVENT_NAME} characters, not {len(name):,}"
    if any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in name):
        return f"an event's name has no control characters: {name!r}"
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return f"an event's name is text, and half a surrogate pair is none: {name!r}"
    return None

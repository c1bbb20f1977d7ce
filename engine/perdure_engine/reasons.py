"""Why somebody asked for something: text that is recorded with it."""

from typing import Final

from perdure_eventstore.door import text_fault

LONGEST_REASON: Final = 1_000
"""Characters."""


def wrong_reason(reason: object, what: str = "a reason") -> str | None:
    """Why ``reason`` cannot be recorded, as a sentence; None if it can."""
    asked = f"{what} is text of at most {LONGEST_REASON:,} characters"
    if not isinstance(reason, str):
        return f"{asked}, not {reason!r:.60}"
    if len(reason) > LONGEST_REASON:
        return f"{asked}, not {len(reason):,}"
    fault = text_fault(reason)
    return f"{asked}; in this one, {fault}" if fault else None

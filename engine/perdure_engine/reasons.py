"""Why somebody asked for something: text that is recorded with it."""

from typing import Final

LONGEST_REASON: Final = 1_000
"""Characters."""


def wrong_reason(reason: object, what: str = "a reason") -> str | None:
    """Why ``reason`` cannot be recorded, as a sentence; None if it can."""
    if not isinstance(reason, str):
        return f"{what} is text, not {reason!r:.60}"
    if len(reason) > LONGEST_REASON:
        return f"{what} is text of at most {LONGEST_REASON:,} characters, not {len(reason):,}"
    if "\0" in reason or any("\ud800" <= letter <= "\udfff" for letter in reason):
        return f"{what} is text without U+0000 and halves of surrogate pairs, not {reason!r:.60}"
    return None

"""One object of a document, read key by key; what is wrong is reported and read as absent."""

from collections.abc import Sequence
from typing import Any

from perdure_engine.definitions.durations import parse_duration
from perdure_engine.definitions.keys import check_keys
from perdure_engine.definitions.pointers import child
from perdure_engine.definitions.report import Report

_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def kind(value: object) -> str:
    """What sort of JSON value it is, for sentences."""
    return next((words for type_, words in _KINDS.items() if isinstance(value, type_)), type(value).__name__)


class Fields:
    """An object of the document at ``pointer``; ``place`` says which keys it may have."""

    def __init__(self, value: dict[str, Any], place: str, pointer: str, report: Report) -> None:
        self.value = value
        self.pointer = pointer
        self.report = report
        check_keys(value, place, pointer, report)

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def at(self, key: str) -> str:
        """The pointer to a key."""
        return child(self.pointer, key)

    def require(self, key: str, why: str) -> None:
        """Report a key that is not there."""
        if key not in self.value:
            self.report.fault(self.pointer, f"`{key}` is missing: {why}")

    def text(self, key: str) -> str | None:
        """Text that is not empty."""
        value: str | None = self._typed(key, str, "text")
        if value is not None and not value.strip():
            self.report.fault(self.at(key), f"`{key}` is empty")
            return None
        return value

    def any_text(self, key: str) -> None:
        """Text for people: only its type is checked."""
        self._typed(key, str, "text")

    def boolean(self, key: str) -> bool | None:
        """True or false."""
        value: bool | None = self._typed(key, bool, "true or false")
        return value

    def object(self, key: str) -> dict[str, Any] | None:
        """An object, its keys unchecked."""
        value: dict[str, Any] | None = self._typed(key, dict, "an object")
        return value

    def items(self, key: str) -> list[tuple[str, Any]] | None:
        """The items of a list, each with its pointer."""
        value = self._typed(key, list, "a list")
        return None if value is None else [(child(self.at(key), index), each) for index, each in enumerate(value)]

    def texts(self, key: str, what: str) -> list[tuple[str, str]] | None:
        """The items of a list of texts, each with its pointer."""
        items = self.items(key)
        if items is None:
            return None
        for pointer, each in items:
            if not isinstance(each, str):
                self.report.fault(pointer, f"{what} is text, not {kind(each)}")
        return [(pointer, each) for pointer, each in items if isinstance(each, str)]

    def duration(self, key: str, *, zero: bool = False) -> float | None:
        """A duration in seconds."""
        if key not in self.value:
            return None
        try:
            return parse_duration(self.value[key], zero=zero)
        except ValueError as refusal:
            self.report.fault(self.at(key), str(refusal))
            return None

    def whole(self, key: str, least: int, most: int) -> int | None:
        """A whole number in a range."""
        if key not in self.value:
            return None
        value = self.value[key]
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        self.report.fault(self.at(key), f"`{key}` is a whole number from {least} to {most}, not {value!r:.60}")
        return None

    def choice(self, key: str, choices: Sequence[str]) -> str | None:
        """One of a few words."""
        words = " or ".join(f'"{each}"' for each in choices)
        value: str | None = self._typed(key, str, words)
        if value is None or value in choices:
            return value
        self.report.fault(self.at(key), f"`{key}` is {words}, not {value!r:.60}")
        return None

    def _typed(self, key: str, type_: type, what: str) -> Any:
        if key not in self.value:
            return None
        value = self.value[key]
        if isinstance(value, type_):
            return value
        self.report.fault(self.at(key), f"`{key}` is {what}, not {kind(value)}")
        return None

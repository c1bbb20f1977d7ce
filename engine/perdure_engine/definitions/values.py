"""Which values a document may hold: JSON's, and of those only what every reader keeps exactly."""

import math

from perdure_engine.definitions.pointers import child
from perdure_engine.definitions.report import Report

DEEPEST = 100
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1


def check_values(value: object, report: Report, pointer: str = "", above: tuple[int, ...] = ()) -> None:
    """Report what is not JSON, and integers beyond 64 bits, NaN, infinities, lone surrogates and U+0000."""
    match value:
        case None | bool():
            pass
        case str():
            _check_text(value, report, pointer)
        case int():
            if not _SMALLEST <= value <= _LARGEST:
                report.fault(pointer, "an integer beyond 64 bits is not kept exactly by JSON readers; write it as text")
        case float():
            if not math.isfinite(value):
                report.fault(pointer, f"{value} is not a JSON number")
        case dict() | list():
            _check_container(value, report, pointer, above)
        case _:
            report.fault(pointer, f"a {type(value).__name__} is not JSON: write {_INSTEAD.get(type(value), 'text')}")


_INSTEAD: dict[type, str] = {tuple: "a list", set: "a list", frozenset: "a list"}


def _check_container(
    value: dict[object, object] | list[object], report: Report, pointer: str, above: tuple[int, ...]
) -> None:
    if id(value) in above:
        report.fault(pointer, "a value that contains itself is not JSON")
        return
    if len(above) == DEEPEST:
        report.fault(pointer, f"values are nested more than {DEEPEST} deep")
        return
    above = (*above, id(value))
    if isinstance(value, list):
        for index, each in enumerate(value):
            check_values(each, report, child(pointer, index), above)
        return
    for key, each in value.items():
        if isinstance(key, str):
            place = child(pointer, key)
            _check_text(key, report, place)
            check_values(each, report, place, above)
        else:
            report.fault(pointer, f'a key must be text: write "{key}"')


def _check_text(value: str, report: Report, pointer: str) -> None:
    if value.isascii():
        if "\0" in value:
            report.fault(pointer, "text with the character U+0000 cannot be stored")
        return
    if "\0" in value:
        report.fault(pointer, "text with the character U+0000 cannot be stored")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        report.fault(pointer, "text with a lone surrogate is not Unicode and cannot be stored")

"""Retry policies (rule 15): an object, a number of attempts, or ``false`` for one attempt."""

import math
from typing import Any

from perdure_engine.definitions.definition import Retry
from perdure_engine.definitions.fields import Fields, kind
from perdure_engine.definitions.report import Report

_MOST = 1_000_000


def read_retry(value: Any, pointer: str, report: Report) -> Retry | None:
    """The policy; None, with a fault, if it is none."""
    if value is False:
        return Retry(attempts=1)
    if isinstance(value, int) and not isinstance(value, bool):
        attempts = _attempts(value, pointer, report)
        return None if attempts is None else Retry(attempts=attempts)
    if isinstance(value, dict):
        return _policy(Fields(value, "retry", pointer, report))
    report.fault(
        pointer, f"`retry` is an object, a number of attempts, or false for a single attempt, not {kind(value)}"
    )
    return None


def _policy(fields: Fields) -> Retry:
    usual = Retry()
    given = fields.value.get("attempts", usual.attempts)
    attempts = _attempts(given, fields.at("attempts"), fields.report)
    initial = fields.duration("initial", zero=True)
    maximum = fields.duration("maximum", zero=True)
    jitter = fields.duration("jitter", zero=True)
    initial = usual.initial if initial is None else initial
    if maximum is not None and maximum < initial:
        fields.report.fault(fields.at("maximum"), f"`maximum` is less than the first wait of {initial:g} s")
    return Retry(
        attempts=usual.attempts if attempts is None else attempts,
        initial=initial,
        multiplier=_multiplier(fields, usual.multiplier),
        # Whoever asks for a first wait of ten minutes does not mean the default cap to cut it to one.
        maximum=max(usual.maximum, initial) if maximum is None else maximum,
        jitter=usual.jitter if jitter is None else jitter,
    )


def _attempts(value: Any, pointer: str, report: Report) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST:
        return value
    report.fault(pointer, f"attempts are counted from 1 (a single attempt) to {_MOST:,}, not {value!r:.60}")
    return None


def _multiplier(fields: Fields, usual: float) -> float:
    value = fields.value.get("multiplier", usual)
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 1 and math.isfinite(value):
        return float(value)
    fields.report.fault(fields.at("multiplier"), f"`multiplier` is a number, at least 1, not {value!r:.60}")
    return usual

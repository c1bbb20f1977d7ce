"""What the doctor finds: a row that is not as the log says."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

Row = dict[str, Any]
"""Values by column."""

KEY_LOST: Final = "its key cannot be read here, so the row cannot be rebuilt"


class Fault(NamedTuple):
    """One row, or one that is missing.

    ``where`` names it by columns, ``there`` is the rest of it (None: there is no such row), ``log`` what the rest must
    be (None: there must be no such row). Of a row that is there, ``there`` and ``log`` have what differs.
    """

    table: str
    where: Row
    there: Row | None
    log: Row | None
    why: str = ""
    """Why the log says so, where it does not go without saying."""
    lost: str = ""
    """Why it cannot be rebuilt; empty if it can."""

    def __str__(self) -> str:
        there = "there is no row" if self.there is None else f"there is {_said(self.there) or 'a row'}"
        log = "no row" if self.log is None else _said(self.log) or "a row"
        why = f" ({self.why})" if self.why else ""
        lost = f"; {self.lost}" if self.lost else ""
        return f"{self.table}, {_said(self.where)}: {there}, the log says {log}{why}{lost}"


def compared(table: str, where: Row, there: Row | None, log: Row | None, why: str = "") -> Fault | None:
    """The fault of a row that is ``there`` and should be ``log``; None if they are equal."""
    if there is not None and log is not None:
        different = [column for column in log if there.get(column) != log[column]]
        there, log = {each: there.get(each) for each in different}, {each: log[each] for each in different}
    return None if there == log else Fault(table, where, there, log, why)


def _said(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{column} {_text(value)}" for column, value in row.items())


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return f"of {len(value)} bytes"
    text = value if isinstance(value, str) else str(value)
    return text if isinstance(value, int | UUID) or len(text) <= 80 else f"{text[:79]}…"

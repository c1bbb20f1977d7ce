"""Standard output: JSON Lines for machines, text for people. Remarks go to standard error."""

import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape

_encode = msgspec.json.Encoder().encode
_WIDE = 220
"""Columns where there is no terminal: a program that reads our tables wants whole ids."""


def emit(value: Any) -> None:
    """Print one line of JSON; a ``msgspec.Raw`` in it stands as it was written."""
    sys.stdout.buffer.write(_encode(value) + b"\n")
    sys.stdout.buffer.flush()


def raw(text: bytes | None) -> msgspec.Raw | None:
    """JSON text to be spliced in as written."""
    return None if text is None else msgspec.Raw(text)


def utc(moment: datetime | None) -> datetime | None:
    """``moment`` in UTC, which is how machines get it."""
    return None if moment is None else moment.astimezone(UTC)


def people() -> Console:
    """Standard output for people: colour and width are a terminal's, NO_COLOR is respected."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def remarks() -> Console:
    """Standard error for people."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def remark(sentence: str) -> None:
    """Say something beside the result."""
    remarks().print(f"[dim]perdure:[/] {escape(sentence)}")


def complain(sentence: str) -> None:
    """Say what went wrong."""
    remarks().print(f"[red]perdure:[/] {escape(sentence)}")


def warn(sentence: str) -> None:
    """Say what may be a mistake."""
    remarks().print(f"[yellow]perdure: warning:[/] {escape(sentence)}")

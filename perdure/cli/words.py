"""How times, lengths and states are written for people."""

from datetime import UTC, datetime, timedelta

from perdure.cli.exits import WrongUse
from perdure_engine.definitions.durations import parse_duration

_STYLES = {
    "completed": "green",
    "active": "green",
    "started": "cyan",
    "open": "cyan",
    "scheduled": "blue",
    "retrying": "yellow",
    "interrupted": "yellow",
    "stopping": "yellow",
    "paused": "yellow",
    "failed": "red",
    "timed_out": "red",
    "cancelled": "magenta",
}


def status(word: str) -> str:
    """A state in its colour."""
    style = _STYLES.get(word, "dim")
    return f"[{style}]{word}[/]"


def length(seconds: float) -> str:
    """A length of time in three digits or so."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.2f} s"
    return str(timedelta(seconds=round(seconds)))


def between(begun: datetime | None, ended: datetime | None) -> str:
    """The time from one to the other, if both are known."""
    return "" if begun is None or ended is None else length((ended - begun).total_seconds())


def ago(moment: datetime | None) -> str:
    """How long ago a moment was."""
    if moment is None:
        return ""
    return f"{length(max(0.0, (datetime.now(UTC) - moment).total_seconds()))} ago"


def local(moment: datetime) -> str:
    """A moment in this machine's time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def seconds(timeout: str | None) -> float | None:
    """A time-out in seconds. Raises WrongUse."""
    if timeout is None:
        return None
    try:
        return parse_duration(float(timeout) if timeout.replace(".", "", 1).isdigit() else timeout)
    except ValueError as error:
        raise WrongUse(f"--timeout: {error}") from error


def shortened(text: str, longest: int = 100) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"

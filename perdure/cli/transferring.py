"""A bar on standard error while events go out or in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from perdure.cli.output import remarks
from perdure.cli.verb import Common


@contextmanager
def bar(common: Common, doing: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Call what this gives with how many events are done. Only a person at a terminal sees it."""
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    show = remarks().is_terminal and not common.json
    with Progress(*columns, console=remarks(), transient=True, disable=not show) as shown:
        task = shown.add_task(doing, total=total)
        yield lambda events: shown.update(task, completed=events)

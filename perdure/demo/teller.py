"""How the demo speaks: live on a terminal, plain lines elsewhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from perdure.cli.output import people


class Teller:
    """Says what happens as it happens; nothing if ``quiet``."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(quiet=True) if quiet else people()

    def chapter(self, title: str) -> None:
        """Something new begins."""
        self._console.print(f"\n[bold cyan]{title}[/]")

    def say(self, sentence: str) -> None:
        """One step that was done; ``sentence`` may hold markup."""
        self._console.print(f"[green]✓[/] {sentence}", soft_wrap=True)

    def show(self, what: RenderableType) -> None:
        """A table, say."""
        self._console.print(what)

    def quote(self, text: str) -> None:
        """What somebody else wrote."""
        for line in text.strip().splitlines():
            self._console.print(f"[dim]  │ {escape(line)}[/]", soft_wrap=True)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show that something is under way."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(f"{what} …"):
            yield

    def summary(self, title: str, commands: Sequence[tuple[str, str]]) -> None:
        """The end: what to try next."""
        table = Table(box=None, show_header=False, pad_edge=False)
        for command, what in commands:
            table.add_row(f"[bold]{escape(command)}[/]", f"[dim]{what}[/]")
        self._console.print()
        self._console.print(Panel(table, title=title, title_align="left", border_style="green", expand=False))

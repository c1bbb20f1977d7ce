"""What can go wrong with a template: before it runs, and while it does."""

from collections.abc import Sequence

from perdure_engine.faults import Fault

SHOWN = 80
"""Characters of an expression a message shows."""


class TemplateSyntaxError(ValueError):
    """A template cannot be compiled. ``faults`` holds every reason, in document order."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(str(fault) for fault in self.faults))


class TemplateError(ValueError):
    """A template has no value. Trying again cannot help: the same data gives the same error.

    ``pointer`` is the field's JSON pointer, ``expression`` what was asked, ``reason`` a clause that says what is wrong,
    and ``available`` the names there were instead. None of them holds a value of the run, only names.
    """

    def __init__(self, pointer: str, expression: str, reason: str, available: Sequence[str] = ()) -> None:
        self.pointer = pointer
        self.expression = expression
        self.reason = reason
        self.available = tuple(available)
        super().__init__(f"{pointer or '/'}: `{shorten(expression)}` has no value: {reason}")


def shorten(text: str) -> str:
    """``text`` on one line, cut to what a message shows."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"

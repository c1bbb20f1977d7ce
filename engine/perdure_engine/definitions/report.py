"""What a check found: faults and warnings, gathered so that an author sees all of them at once."""

import difflib
from collections.abc import Collection

from perdure_engine.faults import Fault

_COMPARISONS = 20_000
"""How many names one report compares. Near names are a courtesy, and must not make 10,000 typos cost minutes."""


class Report:
    """The faults and warnings of one document."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.warnings: list[Fault] = []
        self._comparisons = _COMPARISONS

    def fault(self, pointer: str, message: str) -> None:
        """Something that keeps the definition from being registered."""
        self.faults.append(Fault(pointer, message))

    def warn(self, pointer: str, message: str) -> None:
        """Something that may be meant, and may be a mistake."""
        self.warnings.append(Fault(pointer, message))

    def near(self, name: str, candidates: Collection[str]) -> str:
        """A question to append to a sentence (``; did you mean `a` or `b`?``), or nothing."""
        self._comparisons -= len(candidates)
        if self._comparisons < 0:
            return ""
        found = difflib.get_close_matches(name, candidates, n=3, cutoff=0.6)
        return f"; did you mean {' or '.join(f'`{each}`' for each in found)}?" if found else ""

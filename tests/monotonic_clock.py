"""A clock that a test sets by hand, in place of ``time.monotonic`` as a module has imported it."""

from types import ModuleType

import pytest


class MonotonicClock:
    """It shows ``now``, and stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)

"""What the face raises, beside the errors of the packages below."""

from uuid import UUID

from perdure_eventstore.door import Json


class PerdureError(Exception):
    """Anything the face itself refuses."""


class DatabaseNotNamed(PerdureError, ValueError):
    """No database was named, or not in a form that is one."""

    def __init__(self, found: str = "") -> None:
        was = f"{found!r} names no database" if found else "no database is named"
        super().__init__(
            f'{was}: give App("embedded:.perdure") or App("postgresql://…"), or set PERDURE_DATABASE_URL to either'
        )


class NotConnected(PerdureError, RuntimeError):
    """The app was used outside `async with app:` or `async with app.node():`."""

    def __init__(self) -> None:
        super().__init__("the app is not connected: use it inside `async with app:` or `async with app.node():`")


class AppInUse(PerdureError, RuntimeError):
    """The app is entered in a way that what it does already forbids. The message says what would be right."""


class RunNotCompleted(PerdureError):
    """A run ended, but not completed. ``error`` is what was recorded, if anything."""

    def __init__(self, run: UUID, how: str, error: Json | None = None) -> None:
        self.run, self.error = run, None if error is None else error.value
        super().__init__(f"run {run} {how}")


class RunFailed(RunNotCompleted):
    """A task failed and nothing handled it."""


class RunCancelled(RunNotCompleted):
    """The run was cancelled."""


class RunTimedOut(RunNotCompleted):
    """The run's deadline passed."""


class RunErased(PerdureError):
    """The run has ended, and what it was given and gave was erased since."""

    def __init__(self, run: UUID, status: str) -> None:
        self.run = run
        super().__init__(f"run {run} is {status}, and its payloads were erased: there is no result any more")


class StillOpen(PerdureError, TimeoutError):
    """The run had not ended when the time to wait was over. The run itself goes on."""

    def __init__(self, run: UUID, seconds: float) -> None:
        self.run = run
        super().__init__(f"run {run} is still open after {seconds:g} s; it goes on")


class WrongConnection(PerdureError, ValueError):
    """What was given as ``connection=`` is no open connection of the right kind."""


class StartRefused(PerdureError, ValueError):
    """A run cannot be started this way, or an event published; the message says what would be right."""

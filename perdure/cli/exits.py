"""The exit statuses, and the errors that name one."""

from typing import Final

DONE: Final = 0
FAILED: Final = 1
"""The run, or the check."""
WRONG_USE: Final = 2
STILL_OPEN: Final = 3
"""At the time-out."""
NO_DATABASE: Final = 4
SIGNALLED: Final = 128
"""Plus the signal's number, as shells have it."""
INTERRUPTED: Final = SIGNALLED + 2
BROKEN_PIPE: Final = SIGNALLED + 13


class Stop(Exception):
    """Ends the command with ``status``; the message is the sentence for people."""

    status = FAILED


class Failed(Stop):
    """The run or the check failed."""


class WrongUse(Stop):
    """The command line asks for something that cannot be, or names something that is not there."""

    status = WRONG_USE


class NoDatabase(Stop):
    """The database cannot be used."""

    status = NO_DATABASE

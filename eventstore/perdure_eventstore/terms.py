"""What a subscription is: its name, what it reads, from where, how it is divided."""

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.feed import Feed
from perdure_eventstore.parts import MOST_PARTS

Start = Literal["now", "beginning"] | int
"""Where a new subscription begins: with what comes, with the log's first event, or behind a position."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscription is. All its consumers, in whatever process, name the same. Raises ValueError."""

    name: str
    types: Sequence[str] | None = None
    """The event types it reads, None for all."""
    match: Callable[[RecordedEvent], bool] | None = None
    """Which of them it wants, None for all."""
    batch: int = 500
    """Events at most in one transaction."""
    parts: int = 1
    """Into how many parts it is divided: so many consumers can work at once. Each reads past the others' events."""
    start: Start = "now"
    idle: float = 60.0
    """Seconds a consumer may leave its transaction idle: one that is frozen loses its part after that."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"a subscription's name is text, not {self.name!r}")
        if type(self.batch) is not int or self.batch < 1:
            raise ValueError(f"the batch of subscription {self.name!r} is a whole number from 1, not {self.batch!r}")
        if type(self.parts) is not int or not 1 <= self.parts <= MOST_PARTS:
            raise ValueError(f"subscription {self.name!r} has 1 to {MOST_PARTS} parts, not {self.parts!r}")
        check_start(self.start)
        if not self.idle > 0:
            raise ValueError(f"the idle time of subscription {self.name!r} is more than 0 s, not {self.idle!r}")


def check_start(start: object) -> None:
    """Raise ValueError for what is no place to begin at."""
    if start not in ("now", "beginning") and (type(start) is not int or not 0 <= start < 2**63):
        raise ValueError(f'a subscription starts at "now", at the "beginning" or at a position from 0, not {start!r}')


async def start_position(start: Start, feed: Feed) -> int:
    """The position behind which a new subscription begins."""
    match start:
        case "now":
            return await feed.beyond(-1)
        case "beginning":
            return 0
    return start

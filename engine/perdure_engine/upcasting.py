"""Old event versions, brought up to date as they are read. The log keeps what was written.

An event type's ``SCHEMA_VERSION`` goes up when what it writes changes its meaning or its place; beside it, here,
stands the function that makes the new version of the old one. ``tests/samples/events`` holds an event of every version
that was ever written.
"""

from collections.abc import Callable

import msgspec

from perdure_eventstore.events import RecordedEvent

Members = dict[str, msgspec.Raw]
"""An object's members, each as it was written. An erased payload has none."""

Upcast = Callable[[Members, Members], tuple[Members, Members]]
"""From the data and payload of one version to those of the next."""


class UnreadableEvent(ValueError):
    """An event that this program cannot read. The message says which, and why."""


class NewerEvent(UnreadableEvent):
    """An event of a version that this program does not know yet."""

    def __init__(self, recorded: RecordedEvent, known: int) -> None:
        super().__init__(
            f"event {recorded.version} of stream {recorded.stream} was written by a newer Perdure: it is a "
            f"{recorded.type} of version {recorded.schema_version}, and this one knows up to {known}; "
            "upgrade the package"
        )


def _key_is_payload(data: Members, payload: Members) -> tuple[Members, Members]:
    """A correlation key is what a user gave: it stood among the engine's facts, where nothing can be erased."""
    if "key" not in data:
        return data, payload
    return {name: raw for name, raw in data.items() if name != "key"}, {"key": data["key"], **payload}


def _unchanged(data: Members, payload: Members) -> tuple[Members, Members]:
    """The new version says more, and what it says more has a default that is true of the old one."""
    return data, payload


UPCASTS: dict[tuple[str, int], Upcast] = {
    ("RunStarted", 1): _key_is_payload,
    ("EventLatched", 1): _key_is_payload,
    ("EventPublished", 1): _key_is_payload,
    ("TaskScheduled", 1): _unchanged,
    ("TaskStarted", 1): _unchanged,
    ("TaskTimedOut", 1): _unchanged,
}
"""By event type and the version that was written."""


def upcast(recorded: RecordedEvent, current: int, data: Members, payload: Members) -> tuple[Members, Members]:
    """``data`` and ``payload`` as version ``current`` would have them. Raises NewerEvent, UnreadableEvent."""
    if recorded.schema_version > current:
        raise NewerEvent(recorded, current)
    for version in range(recorded.schema_version, current):
        step = UPCASTS.get((recorded.type, version))
        if step is None:
            raise UnreadableEvent(f"nothing is known of version {version} of {recorded.type}; this one is {current}")
        data, payload = step(data, payload)
    return data, payload

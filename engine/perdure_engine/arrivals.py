"""A published event on its way through the router, and what it has met so far."""

from uuid import UUID

from perdure_engine.definitions.definition import Definition
from perdure_engine.definitions.names import LONGEST_KEY
from perdure_engine.facts import EventPublished, Match, decode_fact
from perdure_engine.run.scope import event_scope
from perdure_engine.run.state import Occurrence
from perdure_eventstore.door import Json
from perdure_eventstore.events import RecordedEvent


def wrong_key(key: object) -> str | None:
    """What is wrong with a run's key, as a sentence; None if nothing is."""
    if key is not None and not isinstance(key, str):
        return f"a key is text, not {key!r:.60}"
    if key is not None and (len(key) > LONGEST_KEY or not key.isprintable()):
        return f"a key is at most {LONGEST_KEY} printable characters, not {key[:40]!r}"
    return None


class NoKey(ValueError):
    """An event in which a workflow's key cannot be found, and why."""


class Arrival:
    """Made of the event as recorded. Raises what msgspec does for one that cannot be read."""

    def __init__(self, recorded: RecordedEvent) -> None:
        self.recorded = recorded
        self.published: EventPublished = decode_fact(recorded)
        self.matches: list[Match] = []
        self.reasons: list[str] = []
        self._met: set[UUID] = set()

    @property
    def occurrence(self) -> Occurrence:
        """The event as a run meets it."""
        return Occurrence(self.published.name, self.published.payload, self.recorded.stream, self.published.key)

    @property
    def reason(self) -> str:
        """Why it met nothing; empty if it met something."""
        return "" if self.matches else "; ".join(self.reasons) or "no workflow starts with it and no run waits for it"

    def deliver(self, workflow_id: str, run: UUID) -> None:
        """It is for a run that is open."""
        self._meet(Match(workflow_id, "delivered", run), run)

    def start(self, workflow_id: str, run: UUID) -> None:
        """It started a run."""
        self._meet(Match(workflow_id, "started", run), run)

    def ignore(self, workflow_id: str, reason: str) -> None:
        """A workflow that listens for it cannot take it."""
        self.matches.append(Match(workflow_id, "ignored", reason=reason))

    def _meet(self, match: Match, run: UUID) -> None:
        if run not in self._met:
            self._met.add(run)
            self.matches.append(match)


def key_of(definition: Definition, event: Occurrence) -> str:
    """The key of the run that ``event`` is for. Raises TemplateError, NoKey."""
    assert definition.key is not None
    resolved = definition.key.resolve(event_scope(lambda: event.payload.value, event))
    if resolved is None:
        raise NoKey("its key is null")
    key = resolved if isinstance(resolved, str) else Json.of(resolved).text.decode()
    if len(key) > LONGEST_KEY:
        raise NoKey(f"its key is over {LONGEST_KEY} characters")
    return key

"""A checker of the log's histories: was anything broken that the log promises?

It is given what the log holds at the end, what every writer sent and was told, and what every reader saw, in its order.
It knows nothing of how the log works, only what may never be. Every finding is a sentence.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf
from typing import Literal, NamedTuple

Outcome = Literal["acknowledged", "refused", "unknown"]


class Fact(NamedTuple):
    """An event as the log holds it, or as a reader saw it. ``id`` is what its writer calls it."""

    position: int
    stream: str
    version: int
    id: str


class Told(NamedTuple):
    """An append, and what its writer was told: where it is, that it was refused, or (killed, cut off) nothing sure.

    ``sent`` and ``heard`` are moments on a clock that all writers share. Appends with the same word in ``together`` are
    recorded all or none.
    """

    stream: str
    expected: int
    ids: Sequence[str]
    outcome: Outcome
    positions: Sequence[int] = ()
    sent: float = -inf
    heard: float = inf
    together: str = ""

    def __str__(self) -> str:
        return f"the append to stream {self.stream} after version {self.expected} ({self.outcome})"


def findings(log: Sequence[Fact], told: Sequence[Told], readers: Mapping[str, Sequence[Fact]]) -> list[str]:
    """All that is wrong. ``log`` is in the order of position, and readers have read up to its end."""
    found = [*log_findings(log), *told_findings(log, told), *turn_findings(log, told)]
    return found + [f"{name}: {what}" for name, seen in readers.items() for what in reader_findings(seen, log)]


def log_findings(log: Sequence[Fact]) -> Iterator[str]:
    """What is wrong with the log by itself: a gap or a double in a stream, a stream out of order, an event twice."""
    for a, b in pairwise(log):
        if b.position <= a.position:
            yield f"position {b.position} comes after {a.position}"
    heads: dict[str, int] = {}
    for fact in log:
        due = heads.get(fact.stream, 0) + 1
        if fact.version != due:
            yield f"stream {fact.stream} has version {fact.version} at position {fact.position}, where {due} was due"
        heads[fact.stream] = fact.version
    for id_, count in Counter(fact.id for fact in log).items():
        if count > 1:
            yield f"event {id_} is there {count} times"


def told_findings(log: Sequence[Fact], told: Sequence[Told]) -> Iterator[str]:
    """What writers were told and is not so, an append that is there in part, an event that nobody wrote."""
    facts = {fact.id: fact for fact in log}
    for one in told:
        there = [facts[id_] for id_ in one.ids if id_ in facts]
        if 0 < len(there) < len(one.ids):
            yield f"{one} is there in part: {len(there)} of {len(one.ids)} events"
        elif not there:
            if one.outcome == "acknowledged":
                yield f"{one} is not there"
        elif one.outcome == "refused":
            yield f"{one} is there, at position {there[0].position}"
        else:
            yield from _place_findings(one, there)
    yield from _company_findings(facts, told)
    written = {id_ for one in told for id_ in one.ids}
    for fact in log:
        if fact.id not in written:
            yield f"position {fact.position} has an event that nobody wrote"


def _place_findings(one: Told, there: Sequence[Fact]) -> Iterator[str]:
    expected = [(one.stream, one.expected + i) for i in range(1, len(there) + 1)]
    places = [(fact.stream, fact.version) for fact in there]
    if places != expected:
        yield f"{one} is elsewhere: {places}"
    positions = [fact.position for fact in there]
    if one.outcome == "acknowledged" and positions != list(one.positions):
        yield f"{one} was told positions {list(one.positions)} and is at {positions}"


def _company_findings(facts: Mapping[str, Fact], told: Sequence[Told]) -> Iterator[str]:
    companies = defaultdict(list)
    for one in told:
        if one.together:
            companies[one.together].append(any(id_ in facts for id_ in one.ids))
    for name, there in companies.items():
        if any(there) and not all(there):
            yield f"of the appends sent together as {name}, {sum(there)} of {len(there)} are there"


def turn_findings(log: Sequence[Fact], told: Sequence[Told]) -> Iterator[str]:
    """Appends that were sent after another had been acknowledged, and lie before it in the log."""
    position = {fact.id: fact.position for fact in log}
    moments: list[tuple[float, bool, int]] = []
    for one in told:
        there = [position[id_] for id_ in one.ids if id_ in position]
        if there:
            moments.append((one.sent, False, min(there)))
            if one.outcome == "acknowledged":
                moments.append((one.heard, True, max(there)))
    highest = 0
    for _, acknowledged, place in sorted(moments):
        if acknowledged:
            highest = max(highest, place)
        elif place < highest:
            yield f"position {place} went to an append that was sent after position {highest} had been told"


def reader_findings(seen: Sequence[Fact], log: Iterable[Fact]) -> Iterator[str]:
    """What is wrong with what somebody read from the log's beginning to its end."""
    committed = set(log)
    for fact, count in Counter(seen).items():
        if count > 1:
            yield f"position {fact.position} was read {count} times"
    for fact in sorted(committed - set(seen)):
        yield f"position {fact.position} was never read"
    for fact in sorted(set(seen) - committed):
        yield f"position {fact.position} was read as {fact[1:]}, which was never committed"
    for a, b in pairwise(seen):
        if b.position < a.position:
            yield f"position {b.position} was read after {a.position}"

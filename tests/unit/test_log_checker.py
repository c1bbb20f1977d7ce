"""The checker of the log's histories: silent about a right one, and with a word for every wrong one."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from log_checker import Fact, Told, findings


class History(NamedTuple):
    log: list[Fact]
    told: list[Told]
    readers: dict[str, list[Fact]]


def right() -> History:
    """Two streams side by side; a hole where somebody was rolled back; all three outcomes."""
    log = [Fact(1, "s", 1, "a"), Fact(2, "s", 2, "b"), Fact(4, "t", 1, "c"), Fact(5, "s", 3, "d"), Fact(6, "u", 1, "g")]
    told = [
        Told("s", 0, ["a", "b"], "acknowledged", [1, 2], sent=0, heard=2),
        Told("t", 0, ["c"], "acknowledged", [4], sent=1, heard=3),
        Told("s", 2, ["d"], "unknown", sent=3),
        Told("s", 2, ["e"], "refused", sent=3, heard=5),
        Told("t", 1, ["f"], "unknown", sent=4),
        Told("u", 0, ["g"], "acknowledged", [6], sent=4, heard=5),
        Told("v", 0, ["h"], "unknown", sent=5, together="two"),
        Told("w", 0, ["i"], "unknown", sent=5, together="two"),
    ]
    return History(log, told, {"one": list(log), "other": list(log)})


def test_nothing_is_wrong_with_a_right_history() -> None:
    assert findings(*right()) == []
    assert findings([], [], {"one": []}) == []


def _position_twice(it: History) -> None:
    it.log[2] = it.log[2]._replace(position=2)


def _gap_in_a_stream(it: History) -> None:
    it.log[3] = it.log[3]._replace(version=4)


def _version_twice(it: History) -> None:
    it.log[3] = it.log[3]._replace(version=2)


def _stream_in_wrong_order(it: History) -> None:
    it.log[0], it.log[1] = Fact(1, "s", 2, "b"), Fact(2, "s", 1, "a")


def _event_twice(it: History) -> None:
    it.log.append(Fact(7, "s", 4, "d"))


def _acknowledged_is_lost(it: History) -> None:
    del it.log[-1]


def _in_part(it: History) -> None:
    del it.log[1]


def _company_in_part(it: History) -> None:
    it.log.append(Fact(7, "v", 1, "h"))


def _unknown_in_part(it: History) -> None:
    it.told[2] = it.told[2]._replace(ids=["d", "x"])


def _refused_is_there(it: History) -> None:
    it.log.append(Fact(7, "s", 4, "e"))


def _two_winners(it: History) -> None:
    it.told[3] = it.told[3]._replace(outcome="acknowledged", positions=[5])


def _other_position_told(it: History) -> None:
    it.told[1] = it.told[1]._replace(positions=[3])


def _other_version_told(it: History) -> None:
    it.told[1] = it.told[1]._replace(expected=1)


def _in_another_stream(it: History) -> None:
    it.told[2] = it.told[2]._replace(stream="u")


def _nobody_wrote(it: History) -> None:
    it.log.append(Fact(7, "z", 1, "z"))


def _before_its_turn(it: History) -> None:
    it.told[1] = it.told[1]._replace(sent=5.5, heard=6)


def _never_read(it: History) -> None:
    del it.readers["other"][2]


def _end_not_read(it: History) -> None:
    del it.readers["other"][-1]


def _read_twice(it: History) -> None:
    it.readers["one"].insert(3, it.readers["one"][2])


def _read_late(it: History) -> None:
    it.readers["one"].append(it.readers["one"].pop(1))


def _read_uncommitted(it: History) -> None:
    it.readers["one"].insert(2, Fact(3, "t", 1, "x"))


def _read_as_another(it: History) -> None:
    it.readers["one"][2] = it.readers["one"][2]._replace(id="x")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_position_twice, "position 2 comes after 2"),
        (_gap_in_a_stream, "stream s has version 4 at position 5, where 3 was due"),
        (_version_twice, "stream s has version 2 at position 5, where 3 was due"),
        (_stream_in_wrong_order, "stream s has version 2 at position 1, where 1 was due"),
        (_event_twice, "event d is there 2 times"),
        (_acknowledged_is_lost, "the append to stream u after version 0 (acknowledged) is not there"),
        (_in_part, "the append to stream s after version 0 (acknowledged) is there in part: 1 of 2 events"),
        (_unknown_in_part, "the append to stream s after version 2 (unknown) is there in part: 1 of 2 events"),
        (_company_in_part, "of the appends sent together as two, 1 of 2 are there"),
        (_refused_is_there, "the append to stream s after version 2 (refused) is there, at position 7"),
        (_two_winners, "the append to stream s after version 2 (acknowledged) is not there"),
        (
            _other_position_told,
            "the append to stream t after version 0 (acknowledged) was told positions [3] and is at",
        ),
        (_other_version_told, "the append to stream t after version 1 (acknowledged) is elsewhere: [('t', 1)]"),
        (_in_another_stream, "the append to stream u after version 2 (unknown) is elsewhere: [('s', 3)]"),
        (_nobody_wrote, "position 7 has an event that nobody wrote"),
        (_before_its_turn, "position 4 went to an append that was sent after position 6 had been told"),
        (_never_read, "other: position 4 was never read"),
        (_end_not_read, "other: position 6 was never read"),
        (_read_twice, "one: position 4 was read 2 times"),
        (_read_late, "one: position 2 was read after 6"),
        (_read_uncommitted, "one: position 3 was read as ('t', 1, 'x'), which was never committed"),
        (_read_as_another, "one: position 4 was read as ('t', 1, 'x'), which was never committed"),
    ],
)
def test_what_is_wrong_is_said(spoil: Callable[[History], None], said: str) -> None:
    history = right()
    spoil(history)
    assert any(finding.startswith(said) for finding in findings(*history)), findings(*history)

"""How a subscription is divided, and the checker of what its consumers did."""

from uuid import UUID, uuid4, uuid5

import pytest
from consuming import Entry, faults
from hypothesis import given
from hypothesis import strategies as st

from perdure_engine.identity import new_id
from perdure_eventstore.parts import MOST_PARTS, part_of, redivide
from perdure_eventstore.terms import Terms

A, B = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize("draw", [uuid4, new_id, lambda: uuid5(A, str(uuid4()))], ids=["v4", "v7", "v5"])
def test_the_parts_are_of_one_size(draw: type[UUID]) -> None:
    found = [part_of(draw(), MOST_PARTS) for _ in range(8_000)]
    assert all(60 < found.count(part) < 200 for part in range(MOST_PARTS))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, MOST_PARTS))
def test_nothing_is_repeated_or_passed_over_when_parts_are_divided_anew(old: list[int], parts: int) -> None:
    divided = redivide(old, parts)
    before = {byte: old[byte % len(old)] for byte in range(256)}
    if divided is None:
        assert any(before[a] != before[b] for a in range(256) for b in range(a % parts, 256, parts))
    else:
        assert {byte: divided[byte % parts] for byte in range(256)} == before


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=8), st.integers(1, 8))
def test_a_multiple_is_always_possible(old: list[int], times: int) -> None:
    assert redivide(old, len(old) * times) == old * times


def test_equal_positions_are_divided_into_any_number() -> None:
    assert redivide([7, 7, 7], 5) == [7] * 5
    assert redivide([7, 8], 1) is None


def test_the_checker_finds_what_is_wrong() -> None:
    a1, a2, b1 = Entry(UUID(int=11), A, 1), Entry(UUID(int=12), A, 2), Entry(UUID(int=21), B, 1)
    assert faults([a1, a2, b1], [a1, b1, a2]) == []
    assert faults([a1, b1, a2], [a1, a2, b1]) == []
    assert faults([a1, b1], [a1, a2, b1]) == [f"{a2} was never consumed"]
    assert faults([a1, a2, b1, b1], [a1, a2, b1]) == [f"{b1} was consumed 2 times"]
    assert faults([a2, a1, b1], [a1, a2, b1]) == [f"{a1} came after {a2}"]
    assert faults([a1, b1], [a1]) == [f"{b1} was consumed and never recorded"]


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ({"name": ""}, "a subscription's name is text, not ''"),
        ({"batch": 0}, "the batch of subscription 'x' is a whole number from 1, not 0"),
        ({"parts": 65}, "subscription 'x' has 1 to 64 parts, not 65"),
        ({"parts": 0}, "subscription 'x' has 1 to 64 parts, not 0"),
        ({"parts": True}, "subscription 'x' has 1 to 64 parts, not True"),
        ({"start": -1}, 'starts at "now", at the "beginning" or at a position from 0, not -1'),
        ({"start": "end"}, 'starts at "now", at the "beginning" or at a position from 0, not \'end\''),
        ({"idle": 0}, "the idle time of subscription 'x' is more than 0 s, not 0"),
    ],
)
def test_terms_that_make_no_sense_are_refused(terms: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError) as refused:
        Terms(**{"name": "x", **terms})  # type: ignore[arg-type]
    assert why in str(refused.value)

"""Who gets a slot: a node's number, a type's share, priorities, and nobody waits for ever."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monotonic_clock import MonotonicClock

from perdure_engine import slots as module
from perdure_engine.dispatch import Choice
from perdure_engine.slots import PRIORITY_SECONDS, Slots

RUN = UUID(int=1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MonotonicClock:
    return MonotonicClock(monkeypatch, module)


def take(slots: Slots, name: str, priority: int = 0, type_: str = "t", begun: list[str] | None = None) -> bool:
    return slots.take(type_, priority, RUN, lambda: begun.append(name) if begun is not None else None)


def test_there_are_as_many_slots_as_there_are() -> None:
    slots = Slots(2)
    assert [take(slots, name) for name in "abc"] == [True, True, False]
    assert slots.next() is None
    slots.give_back("t")
    assert slots.next() is not None
    assert (slots.free, slots.waiting) == (0, 0)


def test_who_comes_when_others_wait_waits_behind_them() -> None:
    slots, begun = Slots(1), list[str]()
    take(slots, "a")
    take(slots, "b", begun=begun)
    slots.give_back("t")
    assert not take(slots, "c", begun=begun), "b is first"
    while place := slots.next():
        place.begin()
        slots.give_back("t")
    assert begun == ["b", "c"]


def test_a_higher_priority_goes_first_and_equals_in_their_order(clock: MonotonicClock) -> None:
    slots, begun = Slots(1), list[str]()
    take(slots, "first")
    for name, priority in [("low", -1), ("a", 0), ("high", 5), ("b", 0)]:
        take(slots, name, priority, begun=begun)
    served_all(slots)
    assert begun == ["high", "a", "b", "low"]


def served_all(slots: Slots) -> None:
    slots.give_back("t")
    while place := slots.next():
        place.begin()
        slots.give_back(place.type)


def test_nobody_waits_for_ever_whatever_the_priority_of_those_who_come_later(clock: MonotonicClock) -> None:
    slots, begun = Slots(1), list[str]()
    take(slots, "first")
    take(slots, "patient", -100, begun=begun)
    begun_after = 0
    while "patient" not in begun:
        clock.now += 1.0
        take(slots, "urgent", 100, begun=begun)
        slots.give_back("t")
        place = slots.next()
        assert place is not None
        place.begin()
        begun_after += 1
        assert begun_after <= 200 * PRIORITY_SECONDS + 1


def test_a_type_at_its_limit_holds_up_no_other() -> None:
    slots, begun = Slots(3), list[str]()
    slots.restrict("scarce", 1)
    assert take(slots, "a", type_="scarce", begun=begun)
    assert not take(slots, "b", type_="scarce", begun=begun)
    assert not take(slots, "c", type_="plenty", begun=begun), "others wait, and are asked first"
    assert slots.next() is not None
    assert slots.next() is None
    slots.give_back("scarce")
    place = slots.next()
    assert place is not None and place.type == "scarce"
    slots.restrict("scarce", None)
    assert take(slots, "d", type_="scarce", begun=begun)


def test_who_waits_for_a_run_that_is_gone_is_forgotten() -> None:
    slots = Slots(1)
    take(slots, "a")
    slots.take("t", 0, UUID(int=2), lambda: None)
    slots.take("t", 0, None, lambda: None)
    take(slots, "b")
    slots.forget(lambda run: run == UUID(int=2))
    assert slots.waiting == 2
    slots.forget(lambda run: True)
    assert slots.waiting == 1


@given(st.integers(1, 5), st.lists(st.tuples(st.sampled_from("abc"), st.integers(-3, 3), st.booleans()), max_size=60))
def test_slots_are_never_lost_and_never_too_many(limit: int, steps: list[tuple[str, int, bool]]) -> None:
    slots, running, waiting = Slots(limit), list[str](), 0
    slots.restrict("a", 1)
    for type_, priority, finish in steps:
        if finish and running:
            slots.give_back(running.pop())
        if slots.take(type_, priority, RUN, lambda: None):
            running.append(type_)
        else:
            waiting += 1
        while place := slots.next():
            running.append(place.type)
            waiting -= 1
        assert len(running) + slots.free == limit
        assert slots.waiting == waiting
        assert running.count("a") <= 1
        assert not slots.free or not waiting or "a" in running


def test_who_may_begin_elsewhere_leaves_in_its_turn() -> None:
    slots, moved = Slots(1), list[tuple[str, Choice]]()
    take(slots, "first")
    choice = Choice(UUID(int=3), at_most_once=False)
    slots.take("t", 0, RUN, lambda: None, lambda given: moved.append(("low", given)))
    slots.take("t", 1, RUN, lambda: None, lambda given: moved.append(("high", given)))
    slots.take("here", 5, None, lambda: None)
    assert slots.movable() == ["t"]
    slots.moved("t")(choice)
    slots.moved("t")(choice)
    assert moved == [("high", choice), ("low", choice)]
    assert (slots.movable(), slots.waiting) == ([], 1)
    slots.give_back("t")
    assert (place := slots.next()) is not None and place.type == "here"

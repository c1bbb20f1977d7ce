"""States of runs that wait: bounded in number and in size."""

from uuid import UUID

from perdure_engine.definitions.compile import compile_definition
from perdure_engine.history import Loaded
from perdure_engine.resting import Resting
from perdure_engine.run import new_run
from perdure_eventstore.events import Head

DEFINITION = compile_definition({"workflow_id": "w", "tasks": [{"task_id": "a", "type": "noop", "triggers": []}]})


def loaded(number: int, size: int = 10, version: int = 1) -> Loaded:
    return Loaded(new_run(DEFINITION, UUID(int=number)), Head(version, b"h"), size)


def test_what_rests_can_be_taken_once() -> None:
    resting = Resting()
    resting.put(loaded(1))
    assert resting.take(UUID(int=1)) == loaded(1)
    assert resting.take(UUID(int=1)) is None
    assert (len(resting), resting.size) == (0, 0)


def test_the_one_that_rested_longest_makes_room() -> None:
    resting = Resting(most=2)
    for number in (1, 2, 1, 3):
        resting.put(loaded(number))
    assert [resting.take(UUID(int=number)) is not None for number in (1, 2, 3)] == [True, False, True]


def test_its_size_is_bounded_and_one_that_is_too_large_alone_does_not_stay() -> None:
    resting = Resting(most_bytes=100)
    for number in range(20):
        resting.put(loaded(number, size=30))
        assert resting.size <= 100
    assert (len(resting), resting.size) == (3, 90)
    resting.put(loaded(99, size=101))
    assert (len(resting), resting.size) == (3, 90), "and sends nobody away"


def test_a_later_state_takes_the_place_of_the_earlier() -> None:
    resting = Resting()
    resting.put(loaded(1, size=10))
    resting.put(loaded(1, size=25, version=2))
    assert (len(resting), resting.size) == (1, 25)
    assert resting.take(UUID(int=1)) == loaded(1, size=25, version=2)


def test_what_goes_to_another_node_is_forgotten() -> None:
    resting = Resting()
    for number in range(4):
        resting.put(loaded(number))
    resting.forget(lambda run: run.int % 2 == 0)
    assert [resting.take(UUID(int=number)) is not None for number in range(4)] == [False, True, False, True]
    assert resting.size == 0

"""Who may say that another node is dead: who has had the database in reach for as long as a lease."""

from perdure_engine.witness import Witness

LEASE = 9.0
GRACE = 9.0


def renewing(witness: Witness, *moments: float) -> list[bool]:
    return [witness.reached(moment) for moment in moments]


def test_who_has_just_come_is_a_newcomer_and_judges_after_a_lease() -> None:
    witness = Witness(LEASE, GRACE)
    assert not witness.may_judge(0.0)
    renewing(witness, 100.0, 103.0, 106.0)
    assert witness.is_newcomer
    assert not witness.may_judge(108.9)
    assert witness.may_judge(109.0)


def test_after_an_outage_nobody_judges_until_a_lease_has_passed() -> None:
    witness = Witness(LEASE, GRACE)
    renewing(witness, 0.0, 3.0, 6.0, 9.0)
    assert witness.may_judge(9.0)
    witness.missed()
    assert renewing(witness, 21.0) == [True]
    assert not witness.is_newcomer
    assert not witness.may_judge(29.9)
    assert renewing(witness, 24.0, 27.0, 30.0) == [False] * 3
    assert witness.may_judge(30.0)


def test_a_connection_that_broke_and_came_back_at_once_changes_nothing() -> None:
    witness = Witness(LEASE, GRACE)
    renewing(witness, 0.0, 3.0, 6.0, 9.0)
    for moment in (12.0, 15.0, 18.0):
        witness.missed()
        assert renewing(witness, moment) == [False]
    assert witness.may_judge(18.0)
    assert witness.is_newcomer


def test_an_outage_of_more_than_half_a_lease_counts() -> None:
    witness = Witness(LEASE, GRACE)
    renewing(witness, 0.0, 3.0, 6.0, 9.0)
    witness.missed()
    assert renewing(witness, 9.0 + LEASE / 2 + 0.1) == [True]


def test_who_slept_past_a_lease_of_his_own_knows_nothing_of_the_others() -> None:
    witness = Witness(LEASE, GRACE)
    renewing(witness, 0.0, 3.0, 6.0, 9.0)
    assert renewing(witness, 19.0) == [True], "frozen, without an error"
    assert not witness.may_judge(19.0)


def test_who_is_slow_judges_all_the_same() -> None:
    witness = Witness(LEASE, GRACE)
    assert renewing(witness, 0.0, 8.0, 16.0) == [False] * 3
    assert witness.may_judge(16.0)

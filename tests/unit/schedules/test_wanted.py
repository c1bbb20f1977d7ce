"""What may be asked of schedules; all else is refused in a sentence that does not grow with what was given."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure_engine.schedules.cron import Cron
from perdure_engine.schedules.wanted import ScheduleRefused, Wanted, check_backfill, check_reason
from perdure_eventstore.door import NULL

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAR_EAST, FAR_WEST = timezone(timedelta(hours=14)), timezone(-timedelta(hours=14))
LONG = "1" * 100_000


@pytest.mark.parametrize(
    "moment",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=FAR_EAST),
        datetime.max.replace(tzinfo=FAR_WEST),
        datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(1970, 1, 1, 13, 59, tzinfo=FAR_EAST),
    ],
)
def test_a_backfill_reaches_from_1970_to_9999(moment: datetime) -> None:
    for start, end in ((moment, NOW), (NOW, moment)):
        with pytest.raises(ScheduleRefused, match=r"is a time from 1970 to 9999 in UTC, not \S+$"):
            check_backfill(start, end, None)


def test_at_the_very_ends_a_cron_expression_can_be_asked() -> None:
    first, last = check_backfill(datetime(1970, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC), "queue")
    for zone in ("UTC", "Pacific/Kiritimati", "America/Adak", "Europe/London"):
        assert next(Cron("0 0 1 1 *", zone).between(first, last)).year in (1970, 1971)


@pytest.mark.parametrize("naive", [datetime(2026, 1, 1), "2026-01-01", None, LONG])
def test_a_backfill_is_asked_for_with_times_in_a_zone(naive: Any) -> None:
    with pytest.raises(ScheduleRefused, match="a backfill's end is a datetime with a time zone, not ") as refused:
        check_backfill(NOW, naive, None)
    assert len(str(refused.value)) < 200


@given(st.text() | st.none() | st.integers())
def test_a_reason_is_taken_if_it_can_be_kept(reason: Any) -> None:
    if isinstance(reason, str) and len(reason) <= 1_000 and "\0" not in reason:
        check_reason(reason)
    else:
        with pytest.raises(ScheduleRefused, match="a reason is text of at most 1,000 characters"):
            check_reason(reason)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": LONG}, {"cron": LONG}, {"cron": "* " * 50_000}, {"cron": f"{LONG} * * * *"}, {"timezone": LONG},
        {"cron": f"{'1,' * 50_000}x * * * *"}, {"overlap": LONG}, {"catch_up": LONG}, {"cron": [LONG]},
    ],
)  # fmt: skip
def test_a_sentence_does_not_grow_with_what_was_given(wrong: dict[str, Any]) -> None:
    asked = Wanted("s", "w", "* * * * *", "UTC", NULL, None, None, "skip", "last")
    with pytest.raises(ScheduleRefused) as refused:
        asked._replace(**wrong).checked()
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "cron", ["٣ * * * *", "*/٣ * * * *", "1-٣ * * * *", "² * * * *", "0 0 1 1 \uff11", "0 0 1 \u017fep *"]
)
def test_digits_and_names_are_ascii(cron: str) -> None:
    """Python's pattern for digits takes those of any script."""
    with pytest.raises(ScheduleRefused, match="the cron expression"):
        Wanted("s", "w", cron, "UTC", NULL, None, None, "skip", "last").checked()

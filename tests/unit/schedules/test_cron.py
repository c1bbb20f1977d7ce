"""When a cron expression is due: as cron reads it, where the clocks change too."""

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from perdure_engine.schedules.cron import Cron, WrongZone
from perdure_engine.schedules.crontab import WrongCron

ANY_DAY = datetime(2026, 1, 1, tzinfo=UTC)
"""A Thursday."""


def days(expression: str, count: int = 5) -> list[str]:
    """The first days on which ``expression`` is due in 2026."""
    cron, moment, found = Cron(expression, "UTC"), ANY_DAY - timedelta(seconds=1), list[str]()
    while len(found) < count:
        moment = cron.after(moment)
        if not found or found[-1] != f"{moment:%a %d %b}":
            found.append(f"{moment:%a %d %b}")
    return found


def local(cron: Cron, start: str, count: int) -> list[str]:
    """The next times after ``start``, which is local too, on the clocks of the zone."""
    times = cron.between(datetime.fromisoformat(start).replace(tzinfo=cron.zone), datetime(2200, 1, 1, tzinfo=UTC))
    return [f"{cron.local(moment):%m-%d %H:%M %z}" for moment in islice(times, count)]


@pytest.mark.parametrize("sunday", ["0", "7", "sun", "SUN"])
def test_the_week_begins_on_sunday_which_is_0_and_7(sunday: str) -> None:
    """APScheduler's 0 is Monday."""
    assert days(f"0 9 * * {sunday}", 2) == ["Sun 04 Jan", "Sun 11 Jan"]


@pytest.mark.parametrize(
    ("weekdays", "expected"),
    [
        ("1-5", ["Thu 01 Jan", "Fri 02 Jan", "Mon 05 Jan"]),
        ("mon-fri", ["Thu 01 Jan", "Fri 02 Jan", "Mon 05 Jan"]),
        ("5-7", ["Fri 02 Jan", "Sat 03 Jan", "Sun 04 Jan"]),
        ("fri-sun", ["Fri 02 Jan", "Sat 03 Jan", "Sun 04 Jan"]),
        ("sun-tue", ["Sun 04 Jan", "Mon 05 Jan", "Tue 06 Jan"]),
        ("*/2", ["Thu 01 Jan", "Sat 03 Jan", "Sun 04 Jan"]),
        ("1-5/2", ["Fri 02 Jan", "Mon 05 Jan", "Wed 07 Jan"]),
        ("6,0", ["Sat 03 Jan", "Sun 04 Jan", "Sat 10 Jan"]),
    ],
)
def test_weekdays_are_those_of_cron(weekdays: str, expected: list[str]) -> None:
    assert days(f"0 9 * * {weekdays}", 3) == expected


def test_of_day_and_weekday_either_is_enough_where_both_are_restricted() -> None:
    """APScheduler wants both."""
    assert days("0 0 13 * fri", 4) == ["Fri 02 Jan", "Fri 09 Jan", "Tue 13 Jan", "Fri 16 Jan"]
    assert days("0 0 */2 * fri", 2) == ["Fri 09 Jan", "Fri 23 Jan"]
    assert days("0 0 30 2 fri", 2) == ["Fri 06 Feb", "Fri 13 Feb"]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 0 last * *", ["Sat 31 Jan", "Sat 28 Feb", "Tue 31 Mar"]),
        ("0 0 1,last * *", ["Thu 01 Jan", "Sat 31 Jan", "Sun 01 Feb"]),
        ("@weekly", ["Sun 04 Jan", "Sun 11 Jan", "Sun 18 Jan"]),
        ("@monthly", ["Thu 01 Jan", "Sun 01 Feb", "Sun 01 Mar"]),
        ("0 0 1 jan-mar/2 *", ["Thu 01 Jan", "Sun 01 Mar", "Fri 01 Jan"]),
        ("0 0 31 * *", ["Sat 31 Jan", "Tue 31 Mar", "Sun 31 May"]),
    ],
)
def test_days_and_months(expression: str, expected: list[str]) -> None:
    assert days(expression, 3) == expected


def test_minutes_and_hours() -> None:
    assert local(Cron("5/20 0,12 * * *", "UTC"), "2026-01-01T00:06", 4) == [
        "01-01 00:25 +0000", "01-01 00:45 +0000", "01-01 12:05 +0000", "01-01 12:25 +0000",
    ]  # fmt: skip


# Europe/Berlin: on 2026-03-29 02:00 becomes 03:00, on 2026-10-25 03:00 becomes 02:00.


def test_a_time_of_day_that_does_not_exist_is_due_as_the_gap_ends() -> None:
    assert local(Cron("30 2 * * *", "Europe/Berlin"), "2026-03-28T00:00", 3) == [
        "03-28 02:30 +0100", "03-29 03:00 +0200", "03-30 02:30 +0200",
    ]  # fmt: skip


def test_several_of_them_are_due_once() -> None:
    assert local(Cron("0,20,40 2,3 * * *", "Europe/Berlin"), "2026-03-29T00:00", 4) == [
        "03-29 03:00 +0200", "03-29 03:20 +0200", "03-29 03:40 +0200", "03-30 02:00 +0200",
    ]  # fmt: skip


def test_a_time_of_day_that_comes_twice_is_due_the_first_time() -> None:
    assert local(Cron("30 2 * * *", "Europe/Berlin"), "2026-10-24T12:00", 2) == [
        "10-25 02:30 +0200", "10-26 02:30 +0100",
    ]  # fmt: skip


def test_an_interval_goes_by_the_time_that_passes() -> None:
    hourly = Cron("0 * * * *", "Europe/Berlin")
    assert local(hourly, "2026-03-29T01:00", 3) == ["03-29 01:00 +0100", "03-29 03:00 +0200", "03-29 04:00 +0200"]
    assert local(hourly, "2026-10-25T01:00", 4) == [
        "10-25 01:00 +0200", "10-25 02:00 +0200", "10-25 02:00 +0100", "10-25 03:00 +0100",
    ]  # fmt: skip
    half = Cron("10-59/30 * * * *", "Europe/Berlin")
    assert local(half, "2026-10-25T02:00", 5) == [
        "10-25 02:10 +0200", "10-25 02:40 +0200", "10-25 02:10 +0100", "10-25 02:40 +0100", "10-25 03:10 +0100",
    ]  # fmt: skip


def test_zones_that_change_by_half_an_hour_or_by_a_day() -> None:
    assert local(Cron("10 2 * * *", "Australia/Lord_Howe"), "2026-10-03T12:00", 2) == [
        "10-04 02:30 +1100", "10-05 02:10 +1100",
    ]  # fmt: skip
    assert local(Cron("0 12 * * *", "Pacific/Apia"), "2011-12-29T00:00", 3) == [
        "12-29 12:00 -1000", "12-31 00:00 +1400", "12-31 12:00 +1400",
    ]  # fmt: skip
    forty = Cron("40 * * * *", "Australia/Lord_Howe")
    assert local(forty, "2026-04-05T01:00", 3) == ["04-05 01:40 +1100", "04-05 01:40 +1030", "04-05 02:40 +1030"]
    ten = Cron("10 * * * *", "Australia/Lord_Howe")
    assert local(ten, "2026-10-04T01:00", 3) == ["10-04 01:10 +1030", "10-04 03:10 +1100", "10-04 04:10 +1100"]


EXPRESSIONS = ["30 2 * * *", "0 * * * *", "*/7 * * * *", "*/20 1-4 * * *", "59 1 * * sun", "0 0 1 * mon"]
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kolkata", "UTC"]
MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC))


@given(st.sampled_from(EXPRESSIONS), st.sampled_from(ZONES), MOMENTS, st.integers(1, 200_000))
def test_from_wherever_one_looks_the_times_are_the_same(
    expression: str, zone: str, moment: datetime, seconds: int
) -> None:
    cron = Cron.of(expression, zone)
    first = cron.after(moment)
    second = cron.after(first)
    assert moment < first < second
    between = moment + timedelta(seconds=seconds) % (second - moment)
    assert cron.after(between) == (first if between < first else second)
    assert cron.latest(first, first) == first
    assert cron.latest(first, second) == second
    assert first.second == 0 and first.tzinfo is UTC


@given(st.sampled_from(EXPRESSIONS), st.sampled_from(ZONES), MOMENTS, st.integers(0, 3_000_000))
def test_the_last_time_up_to_now_is_that_after_which_none_comes(
    expression: str, zone: str, moment: datetime, seconds: int
) -> None:
    cron = Cron.of(expression, zone)
    first = cron.after(moment)
    now = first + timedelta(seconds=seconds)
    latest = cron.latest(first, now)
    assert first <= latest <= now < cron.after(latest)


@freeze_time("2026-03-29 00:59:59", tz_offset=5)
def test_this_machines_clock_and_zone_make_no_difference() -> None:
    assert local(Cron("30 2 * * *", "Europe/Berlin"), "2026-10-24T12:00", 1) == ["10-25 02:30 +0200"]
    with freeze_time("1999-12-31"):
        assert days("0 9 * * 0", 1) == ["Sun 04 Jan"]


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("0 9 * *", "has 4 fields and not five: minute, hour, day of month, month, day of week, as in"),
        ("@reboot", "or it is one of @hourly, @daily"),
        ("60 * * * *", "'60' is no minute: it is 0 to 59"),
        ("0 9 * * mon#1", "'mon#1' is no day of week: write"),
        ("0 9 * * mon-fri-sat", "is no day of week: write"),
        ("0 9 * * funday", "'funday' is no day of week: it is 0 to 7, or sun to sat"),
        ("0 9 * foo *", "'foo' is no month: it is 1 to 12, or jan to dec"),
        ("0 9 20-10 * *", "'20-10' ends before it begins, for a day of month"),
        ("*/0 * * * *", "the step of '*/0' is not between 1 and 59, for a minute"),
        ("1,,2 * * * *", "'' is no minute"),
        ("0 9 last-3 * *", "is no day of month"),
        ("0 0 31 4,6 *", "names a day that never comes"),
    ],
)
def test_a_wrong_expression_is_refused_with_a_sentence(expression: str, sentence: str) -> None:
    with pytest.raises(WrongCron) as refused:
        Cron(expression, "UTC")
    assert repr(expression) in str(refused.value) and sentence in str(refused.value)


@pytest.mark.parametrize("zone", ["Europe/Berln", "", "/etc/passwd", "Europe", "../UTC", "CEST+2"])
def test_a_wrong_zone_is_refused_with_a_sentence(zone: str) -> None:
    with pytest.raises(WrongZone, match=r"there is no time zone .*(did you mean|Europe/Berlin is one)"):
        Cron("0 9 * * *", zone)

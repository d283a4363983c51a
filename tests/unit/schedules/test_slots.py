"""Slots of timetables, forward and backward, compared with a slow computation minute by minute."""

from __future__ import annotations

import statistics
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.records.schedule import Timetable
from mirror.schedules.slots import count_slots, last_slot, next_slot, run_at, upcoming

ANCHOR: Final = datetime(1950, 1, 1, 0, 0, 30, tzinfo=UTC)
MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
ZONES: Final = (
    *("Europe/Paris", "Europe/Dublin", "America/New_York", "America/Havana", "America/Santiago", "America/St_Johns"),
    *("Africa/Casablanca", "Africa/Cairo", "Asia/Gaza", "Australia/Lord_Howe", "Pacific/Chatham", "Antarctica/Troll"),
)
EVERY_HOUR: Final = ("*/15 * * * *", "45 * * * *", "0,29,31 */1 * * *", "7 0-23 * * SUN")
SOME_HOURS: Final = ("30 2 * * *", "*/15 0-5 * * *", "0 */2 * * *", "15 0,23 * * *", "*/7 1-22 * * *", "20 3 L * FRI-7")


@cache
def changes(zone: str, first_year: int = 2024, years: int = 3) -> list[datetime]:
    """Return the moments at which the clocks of *zone* change, to the second."""
    found, start = [], datetime(first_year, 1, 1, tzinfo=UTC)
    for days in range(366 * years):
        early, late = start + timedelta(days=days), start + timedelta(days=days + 1)
        if offset(early, zone) == offset(late, zone):
            continue
        while late - early > timedelta(seconds=1):
            middle = early + (late - early) // timedelta(seconds=2) * timedelta(seconds=1)
            early, late = (middle, late) if offset(middle, zone) == offset(early, zone) else (early, middle)
        found.append(late)
    return found


def offset(moment: datetime, zone: str) -> timedelta:
    return moment.astimezone(ZoneInfo(zone)).utcoffset() or timedelta(0)


def between(timetable: Timetable, low: datetime, high: datetime) -> tuple[list[datetime], list[datetime]]:
    """Return the slots after *low*, up to and with *high*, as found forward, and as found backward."""
    forward, backward = [], []
    slot = next_slot(timetable, low, ANCHOR)
    while slot <= high:
        forward.append(slot)
        slot = next_slot(timetable, slot, ANCHOR)
    last = last_slot(timetable, high, ANCHOR)
    while last is not None and last > low:
        backward.append(last)
        last = last_slot(timetable, last - timedelta(microseconds=1), ANCHOR)
    return forward, backward[::-1]


def matching(cron: str, first: datetime, last: datetime) -> set[datetime]:
    """Return the times of a clock that *cron* names: its slots in UTC, where no clock ever changes."""
    names, slot = set(), next_slot(Timetable(cron=cron), first.replace(tzinfo=UTC), ANCHOR)
    while slot <= last.replace(tzinfo=UTC):
        names.add(slot.replace(tzinfo=None))
        slot = next_slot(Timetable(cron=cron), slot, ANCHOR)
    return names


def watched(cron: str, clock: dict[datetime, datetime]) -> list[datetime]:
    """Return the slots, as found by looking at the clock each minute. *clock* says what it shows at which moment."""
    shown = list(clock.values())
    names = matching(cron, shown[0] - HOUR, shown[-1] + HOUR)
    due, seen = [], {shown[0]}
    for moment, before, wall in zip(list(clock)[1:], shown, shown[1:], strict=False):
        if cron in EVERY_HOUR:
            is_due = wall in names
        else:
            skipped = (before + MINUTE * ahead for ahead in range(1, (wall - before) // MINUTE))
            is_due = (wall in names and wall not in seen) or not names.isdisjoint(skipped)
        seen.add(wall)
        if is_due:
            due.append(moment)
    return due


@pytest.mark.parametrize("zone", ZONES)
def test_slots_around_changes_of_clocks_are_those_that_a_watcher_of_the_clock_finds(zone: str) -> None:
    assert len(changes(zone)) >= 2
    for change in changes(zone)[:2]:
        moments = [change + MINUTE * number for number in range(-300, 240)]
        clock = {moment: moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0) for moment in moments}
        low, high = change - 2 * HOUR, moments[-1]
        for cron in (*EVERY_HOUR, *SOME_HOURS):
            expected = [slot for slot in watched(cron, clock) if slot > low]
            assert between(Timetable(cron=cron, time_zone=zone), low, high) == (expected, expected), cron


@settings(deadline=None)
@given(
    zone=st.sampled_from([*ZONES, "Asia/Kolkata", "Asia/Kathmandu", "UTC"]),
    cron=st.sampled_from([*EVERY_HOUR, *SOME_HOURS, "* * * * *", "0 0 29 2 *", "0 0 1 1 *"]),
    away=st.timedeltas(min_value=-4 * HOUR, max_value=4 * HOUR),
    position=st.integers(0, 20),
)
def test_the_last_slot_and_the_next_one_enclose_every_moment(
    zone: str, cron: str, away: timedelta, position: int
) -> None:
    timetable = Timetable(cron=cron, time_zone=zone)
    moments = [datetime(2024, 2, 29, tzinfo=UTC), *changes(zone)]
    moment = moments[position % len(moments)] + away
    last, following = last_slot(timetable, moment, ANCHOR), next_slot(timetable, moment, ANCHOR)
    assert last is not None
    assert last <= moment < following
    assert next_slot(timetable, last, ANCHOR) == following
    assert last_slot(timetable, following, ANCHOR) == following
    assert last_slot(timetable, following - timedelta(microseconds=1), ANCHOR) == last


def test_a_day_that_a_zone_skipped_is_one_slot() -> None:
    for zone, change in (("Pacific/Apia", "2011-12-30T10:00Z"), ("Pacific/Kwajalein", "1993-08-21T12:00Z")):
        timetable = Timetable(cron="*/30 1-22 * * *", time_zone=zone)
        moment = datetime.fromisoformat(change)
        forward, backward = between(timetable, moment - HOUR, moment + HOUR)
        assert forward == backward == [moment, moment + HOUR]


@pytest.mark.parametrize("years", [-60, -1, 1, 50, 7000])
def test_a_clock_may_be_years_away_from_the_anchor(years: int) -> None:
    anchor = datetime(2026, 3, 28, 22, 10, 5, 999_999, tzinfo=UTC)
    timetable, first = Timetable(every=MINUTE), datetime(2026, 3, 28, 22, 11, 5, tzinfo=UTC)
    moment = anchor.replace(year=2026 + years)
    following, last = next_slot(timetable, moment, anchor), last_slot(timetable, moment, anchor)
    if years < 0:
        assert (following, last) == (first, None)
        assert count_slots(timetable, moment, anchor, anchor) == 0
    else:
        assert last == moment.replace(microsecond=0)
        assert following == last + MINUTE
        assert count_slots(timetable, anchor, moment, anchor, limit=10**12) == (last - anchor) // MINUTE + 1
        assert count_slots(timetable, anchor, moment, anchor) == 1000


def test_every_counts_from_the_whole_second_of_the_anchor() -> None:
    timetable = Timetable(every=6 * HOUR, time_zone="Europe/Paris")
    anchor, first = datetime(2026, 1, 1, 0, 0, 30, 999_000, tzinfo=UTC), datetime(2026, 1, 1, 6, 0, 30, tzinfo=UTC)
    assert next_slot(timetable, anchor, anchor) == first
    assert next_slot(timetable, first - timedelta(microseconds=1), anchor) == first
    assert next_slot(timetable, first, anchor) == first + 6 * HOUR
    assert last_slot(timetable, first - timedelta(microseconds=1), anchor) is None
    assert last_slot(timetable, first, anchor) == first
    assert count_slots(timetable, first, first + 24 * HOUR, anchor) == 4


def test_no_slot_before_the_anchor_is_made_up_for() -> None:
    nightly = Timetable(cron="30 2 * * *")
    anchor = datetime(2026, 1, 1, 2, 30, tzinfo=UTC)
    assert last_slot(nightly, anchor + 23 * HOUR, anchor) is None
    assert last_slot(nightly, anchor + 24 * HOUR, anchor) == anchor + 24 * HOUR
    assert last_slot(nightly, anchor - 24 * HOUR, anchor) is None
    assert count_slots(nightly, anchor - 240 * HOUR, anchor + 48 * HOUR, anchor) == 2


def test_slots_are_counted_up_to_a_limit() -> None:
    quarters = Timetable(cron="*/15 * * * *", time_zone="Europe/Paris")
    start = datetime(2026, 10, 24, 22, tzinfo=UTC)
    assert count_slots(quarters, start, start + 25 * HOUR, ANCHOR) == 100
    assert count_slots(quarters, start, start + 25 * HOUR, ANCHOR, limit=7) == 7
    assert count_slots(quarters, start, start, ANCHOR) == 0
    assert count_slots(quarters, start + HOUR, start, ANCHOR) == 0


def test_upcoming_slots_show_the_offset_of_their_day() -> None:
    nightly = Timetable(cron="30 2 * * *", time_zone="Europe/Paris")
    slots = upcoming(nightly, datetime(2026, 10, 24, 12, tzinfo=UTC), ANCHOR, 2)
    assert [slot.isoformat() for slot in slots] == ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]
    assert slots[0] == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert slots[1] - slots[0] == 25 * HOUR


@pytest.mark.parametrize("zone", ["America/New_York", "Pacific/Kiritimati"])
def test_slots_end_with_the_calendar(zone: str) -> None:
    end = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    for timetable in (Timetable(cron="@yearly", time_zone=zone), Timetable(every=HOUR)):
        assert upcoming(timetable, end, ANCHOR, 3) == []
        assert len(upcoming(timetable, end - 731 * 24 * HOUR, ANCHOR, 1)) == 1
        assert last_slot(timetable, end, ANCHOR) is not None
        assert last_slot(timetable, datetime.min.replace(tzinfo=UTC), ANCHOR) is None
        assert next_slot(timetable, datetime.min.replace(tzinfo=UTC), ANCHOR) > datetime(1899, 1, 1, tzinfo=UTC)
        with pytest.raises(ValueError, match=r"no slot after 9999-12-31"):
            next_slot(timetable, end, ANCHOR)
    for cron in ("0 0 29 2 *", "59 23 31 12 */5"):  # in the year 10000, and on the last day of 9999
        assert upcoming(Timetable(cron=cron, time_zone=zone), end - 800 * 24 * HOUR, ANCHOR, 1) == []


def test_the_jitter_of_a_slot_is_always_the_same_and_spreads_schedules_evenly() -> None:
    nightly = Timetable(cron="30 2 * * *", jitter=timedelta(minutes=10))
    slot = datetime(2026, 1, 1, 2, 30, tzinfo=UTC)
    assert run_at(nightly, slot, "schedule_01KB7") == slot + timedelta(seconds=34, milliseconds=161)
    delays = [(run_at(nightly, slot, f"schedule_{number}") - slot).total_seconds() for number in range(500)]
    assert 0 <= min(delays) < 20
    assert 580 < max(delays) < 600
    assert [round(quartile / 50) for quartile in statistics.quantiles(delays)] == [3, 6, 9]
    assert len({run_at(nightly, slot + 24 * HOUR * day, "schedule_1") - 24 * HOUR * day for day in range(20)}) == 20


def test_a_slot_without_jitter_runs_at_once() -> None:
    slot = datetime(2026, 1, 1, 2, 30, tzinfo=UTC)
    assert run_at(Timetable(cron="30 2 * * *"), slot, "schedule_1") == slot


def test_a_run_is_before_the_next_slot_also_where_a_skipped_hour_brings_them_together() -> None:
    timetable = Timetable(cron="30 1,2 * * *", time_zone="Europe/Paris", jitter=HOUR)
    slots = upcoming(timetable, datetime(2026, 3, 28, 12, tzinfo=UTC), ANCHOR, 2)
    assert [slot.isoformat() for slot in slots] == ["2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00"]
    runs = [run_at(timetable, slots[0], f"schedule_{number}") for number in range(200)]
    assert all(earlier <= slots[1] for earlier in runs)
    assert max(runs) > slots[0] + timedelta(minutes=29)


def test_every_schedule_with_a_period_has_its_jitter() -> None:
    timetable = Timetable(every=2 * MINUTE, jitter=2 * MINUTE)
    slots = upcoming(timetable, ANCHOR, ANCHOR, 100)
    runs = [run_at(timetable, slot, "schedule_1") for slot in slots]
    assert all(slot <= run < slot + 2 * MINUTE for slot, run in zip(slots, runs, strict=True))
    assert all(earlier < later for earlier, later in pairwise(runs))

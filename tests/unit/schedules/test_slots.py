"""Slots of timetables: where clocks change, forward and backward, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mirror.records.schedule import Timetable
from mirror.schedules.slots import count_slots, last_slot, next_slot, problems, run_at, upcoming

ANCHOR = datetime(2020, 1, 1, 0, 0, 30, tzinfo=UTC)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def test_a_skipped_time_is_due_right_after_the_gap_and_a_repeated_one_the_first_time() -> None:
    nightly = Timetable(cron="30 2 * * *", time_zone="Europe/Paris")
    spring = upcoming(nightly, moment("2026-03-28T12:00Z"), ANCHOR, 2)
    autumn = upcoming(nightly, moment("2026-10-24T12:00Z"), ANCHOR, 2)
    assert [slot.isoformat() for slot in spring] == ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]
    assert [slot.isoformat() for slot in autumn] == ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]


def test_what_is_well_has_no_problems() -> None:
    assert problems(Timetable(cron="30 2 * * *", time_zone="Europe/Paris", jitter=timedelta(minutes=10))) == {}
    assert problems(Timetable(every=timedelta(hours=6))) == {}


def test_every_counts_from_the_anchor() -> None:
    timetable = Timetable(every=timedelta(hours=6))
    assert next_slot(timetable, ANCHOR, ANCHOR) == moment("2020-01-01T06:00:30Z")
    assert next_slot(timetable, moment("2020-01-01T06:00:30Z"), ANCHOR) == moment("2020-01-01T12:00:30Z")
    assert next_slot(timetable, moment("1990-01-01T00:00Z"), ANCHOR) == moment("2020-01-01T06:00:30Z")
    assert last_slot(timetable, moment("2020-01-01T06:00:29Z"), ANCHOR) is None
    assert last_slot(timetable, moment("2020-01-01T06:00:30Z"), ANCHOR) == moment("2020-01-01T06:00:30Z")
    assert count_slots(timetable, ANCHOR, moment("2020-01-03T00:00:30Z"), ANCHOR) == 8


def test_jitter_is_the_same_for_every_scheduler() -> None:
    timetable = Timetable(cron="@daily", jitter=timedelta(minutes=10))
    slot = moment("2026-01-01T00:00Z")
    assert run_at(timetable, slot, "schedule_1") == run_at(timetable, slot, "schedule_1")
    assert slot <= run_at(timetable, slot, "schedule_1") < slot + timedelta(minutes=10)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "Europe/paris", ""])
def test_an_unknown_zone_is_refused(name: str) -> None:
    assert list(problems(Timetable(cron="@daily", time_zone=name))) == ["time_zone"]

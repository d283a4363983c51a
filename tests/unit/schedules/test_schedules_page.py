"""docs/reference/schedules.md is computed: each row of its tables is a case."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Final

import pytest

from mirror.records.rule_fields import Duration
from mirror.records.schedule import Timetable
from mirror.schedules.slots import last_slot, problems, upcoming

PAGE: Final = (Path(__file__).parents[3] / "docs/reference/schedules.md").read_text(encoding="utf-8")
ANCHOR: Final = datetime(2001, 1, 1, tzinfo=UTC)


def rows(header: str) -> list[list[str]]:
    """Return the cells of each row of the table that has *header*."""
    lines = PAGE.partition(f"{header}\n")[2].splitlines()[1:]
    table = lines[: next(position for position, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def listed(cell: str) -> list[str]:
    return [] if cell == "none" else cell.split(", ")


ZONES: Final = rows("| zone | expression | local day | local time | UTC | because |")
EXPRESSIONS: Final = rows("| expression | it means | slots |")
REFUSED: Final = rows("| expression | the message |")
PERIODS: Final = rows("| created | `every` | slots |")
WINDOW: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?: from (\d\d:\d\d) to (\d\d:\d\d))?")


def slots_of(timetable: Timetable, day: date) -> list[datetime]:
    """Return the slots of a local day, in the zone of the timetable."""
    before = datetime.combine(day, time(), UTC) - timedelta(hours=16)
    slots = upcoming(timetable, before, ANCHOR, 200)
    return [slot for slot in slots if slot.date() == day]


@pytest.mark.parametrize(("zone", "cron", "window", "local", "utc", "_why"), ZONES)
def test_a_row_of_time_zones(zone: str, cron: str, window: str, local: str, utc: str, _why: str) -> None:
    timetable = Timetable(cron=cron.strip("`"), time_zone=zone)
    found = WINDOW.fullmatch(window)
    assert found
    day, first, last = date.fromisoformat(found[1]), found[2] or "00:00", found[3] or "23:59"
    slots = [slot for slot in slots_of(timetable, day) if first <= f"{slot:%H:%M}" <= last]
    assert [slot.isoformat()[11:16] + slot.isoformat()[19:] for slot in slots] == listed(local)
    assert [f"{slot.astimezone(UTC):%Y-%m-%dT%H:%MZ}" for slot in slots] == listed(utc)
    assert problems(timetable) == {}
    assert [last_slot(timetable, slot, ANCHOR) for slot in slots] == slots


@pytest.mark.parametrize(("cron", "_meaning", "slots"), EXPRESSIONS)
def test_a_row_of_expressions(cron: str, _meaning: str, slots: str) -> None:
    for one in cron.split("`, `"):
        timetable = Timetable(cron=one.strip("`"))
        assert problems(timetable) == {}
        found = upcoming(timetable, datetime(2025, 12, 31, 23, 59, tzinfo=UTC), ANCHOR, len(listed(slots)))
        assert [f"{slot:%Y-%m-%d %H:%M}" for slot in found] == [f"2026-{slot}" for slot in listed(slots)]


@pytest.mark.parametrize(("cron", "message"), REFUSED)
def test_a_row_of_refused_expressions(cron: str, message: str) -> None:
    assert problems(Timetable(cron=cron.strip("`"), time_zone="Europe/Paris")) == {"cron": message}


@pytest.mark.parametrize(("created", "every", "slots"), PERIODS)
def test_a_row_of_periods(created: str, every: str, slots: str) -> None:
    anchor = datetime.fromisoformat(created)
    timetable = Timetable(every=Duration().deserialize(every.strip("`")), time_zone="Europe/Paris")
    found = upcoming(timetable, anchor, anchor, len(listed(slots)))
    assert [f"{slot.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" for slot in found] == listed(slots)


def test_the_page_has_the_zones_with_the_strangest_clocks() -> None:
    assert {row[0] for row in ZONES} >= {
        "Europe/Paris",
        "America/New_York",
        "Asia/Kolkata",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
        "Pacific/Apia",
    }

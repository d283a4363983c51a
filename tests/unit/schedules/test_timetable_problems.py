"""What is wrong with a timetable: each field has a sentence, and nothing that a user writes takes long."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.records.schedule import Timetable
from mirror.schedules.slots import last_slot, next_slot, problems

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)


def test_what_is_well_has_no_problems() -> None:
    assert problems(Timetable(cron="30 2 * * *", time_zone="Europe/Paris", jitter=10 * MINUTE)) == {}
    assert problems(Timetable(every=6 * HOUR, time_zone="America/Argentina/Buenos_Aires")) == {}
    assert problems(Timetable(cron="  30\t2  * * mon-fri\n")) == {}
    assert problems(Timetable(every=MINUTE, jitter=MINUTE)) == {}
    assert problems(Timetable(every=366 * DAY, jitter=24 * HOUR)) == {}


def test_exactly_one_of_cron_and_every_is_needed() -> None:
    assert problems(Timetable()) == {"cron": "Write either 'cron' or 'every'."}
    assert problems(Timetable(cron="@daily", every=HOUR)) == {"every": "Write either 'cron' or 'every', not both."}


def test_each_field_has_its_own_problem() -> None:
    found = problems(Timetable(cron="60 * * * *", time_zone="Mars/Olympus", jitter=-MINUTE))
    assert list(found) == ["cron", "time_zone", "jitter"]


@pytest.mark.parametrize("every", [timedelta(0), -HOUR, timedelta(seconds=59), 366 * DAY + MINUTE, timedelta.max])
def test_a_period_has_bounds(every: timedelta) -> None:
    assert problems(Timetable(every=every)) == {"every": "The time between two slots must be between 1m and 366d."}


@pytest.mark.parametrize("jitter", [-MINUTE, 24 * HOUR + MINUTE, timedelta.max])
def test_jitter_has_bounds(jitter: timedelta) -> None:
    assert problems(Timetable(cron="@monthly", jitter=jitter)) == {"jitter": "The jitter must be between 0s and 24h."}


@pytest.mark.parametrize(
    ("timetable", "gap"),
    [
        (Timetable(every=HOUR, jitter=HOUR + MINUTE), "60m"),
        (Timetable(every=timedelta(seconds=90), jitter=2 * MINUTE), "90s"),
        (Timetable(cron="*/15 * * * *", jitter=16 * MINUTE), "15m"),
        (Timetable(cron="0,10 3 * * *", time_zone="Europe/Paris", jitter=11 * MINUTE), "10m"),
        (Timetable(cron="50 3 * * *", jitter=24 * HOUR), None),
        (Timetable(cron="*/40 * * * *", jitter=30 * MINUTE), "20m"),
        (Timetable(cron="0,30 0 29 2 */7", jitter=HOUR), "30m"),
    ],
)
def test_jitter_is_not_longer_than_the_shortest_gap(timetable: Timetable, gap: str | None) -> None:
    sentence = (
        f"The jitter is longer than the shortest time between two slots, {gap}, so runs would overtake each other."
    )
    assert problems(timetable) == ({"jitter": sentence} if gap else {})


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("Europe/paris", "Did you mean Europe/Paris?"),
        ("Paris", "Did you mean Europe/Paris?"),
        ("America/NewYork", "Did you mean America/New_York?"),
        ("America/New York", "Did you mean America/New_York?"),
        ("Europe/Pariis", "Did you mean Europe/Paris?"),
        ("utc", "Did you mean UTC?"),
        ("CEST", "Write a name such as Europe/Paris or UTC."),
        ("UTC+2", "Write a name such as Europe/Paris or UTC."),
        ("+02:00", "Write a name such as Europe/Paris or UTC."),
        ("localtime", "Write a name such as Europe/Paris or UTC."),
        ("", "Write a name such as Europe/Paris or UTC."),
    ],
)
def test_an_unknown_zone_is_refused_with_a_suggestion(written: str, hint: str) -> None:
    sentence = f"The time zone '{written}' is not known. {hint}"
    assert problems(Timetable(cron="@daily", time_zone=written)) == {"time_zone": sentence}


@pytest.fixture
def zone_folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that is the only zone database of the system, and empty."""
    (tmp_path / "zoneinfo").mkdir()
    zoneinfo.reset_tzpath([str(tmp_path / "zoneinfo")])
    ZoneInfo.clear_cache()
    yield tmp_path / "zoneinfo"
    zoneinfo.reset_tzpath()
    ZoneInfo.clear_cache()


def test_zones_are_known_where_the_system_has_none(zone_folder: Path) -> None:
    timetable = Timetable(cron="30 2 * * *", time_zone="Europe/Paris")
    assert list(zone_folder.iterdir()) == []
    assert zoneinfo.available_timezones() >= {"Europe/Paris", "UTC"}
    assert next_slot(timetable, NOW, NOW) == datetime(2026, 1, 1, 1, 30, tzinfo=UTC)


def test_no_name_of_a_zone_leads_out_of_the_zone_database(zone_folder: Path) -> None:
    zone = resources.files("tzdata").joinpath("zoneinfo", "Europe", "Paris").read_bytes()
    (zone_folder.parent / "elsewhere").write_bytes(zone)
    (zone_folder / "inside").write_bytes(zone)
    assert next_slot(Timetable(cron="0 2 * * *", time_zone="inside"), NOW, NOW) == NOW + HOUR
    for name in ("../elsewhere", "inside/../../elsewhere", str(zone_folder.parent / "elsewhere"), "./inside"):
        timetable = Timetable(cron="0 2 * * *", time_zone=name)
        assert list(problems(timetable)) == ["time_zone"]
        with pytest.raises(ValueError, match=r"The time zone '.+' cannot be read"):
            next_slot(timetable, NOW, NOW)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "Europe", "\0", "\udcff", "x" * 10_000, "", ".", "a" * 300]
)
def test_a_hostile_name_of_a_zone_is_refused(name: str) -> None:
    timetable = Timetable(cron="@daily", time_zone=name)
    sentence = problems(timetable)["time_zone"]
    assert len(sentence) < 200
    assert sentence.isprintable()
    with pytest.raises(ValueError, match=r"The time zone '.*' cannot be read"):
        next_slot(timetable, NOW, NOW)


@pytest.mark.parametrize(
    "cron",
    [
        "",
        " ",
        "@",
        "*",
        "* * * * * *",
        "0 0 1 1 * 2026",
        "* * 31 2 *",
        "* * 31 4,6,9,11 *",
        "* * */31 * MON#5",
        "* * */31 * 1L",
        "*/0 * * * *",
        "*/-1 * * * *",
        "-1 * * * *",
        "1-2-3 * * * *",
        "1/2/3 * * * *",
        "5- * * * *",
        "1,,2 * * * *",
        ", * * * *",
        "/ * * * *",
        "# * * * *",
        "99999999999999999999 * * * *",
        "1e1 * * * *",
        "0x1 * * * *",
        "1.5 * * * *",
        "0 0 LW5 * *",
        "0 0 15W * *",
        "0 0 * * L",
        "0 0 * * MON#6",
        "0 0 * * MON#0",
        "0 0 * * SAT-SUN",
        "0 0 * FOO *",
        "0 0 * * 8",
        "0 0 0 * *",
        "0 0 * 13 *",
        "H 2 * * *",
        "\u0663 * * * *",
        "\u00b2 * * * *",
        "0 0 * * \u00b2L",
        "0 0 * * fr\u0131",
        "0\u00a02 * * * *",
        "0 2 * * *\0",
        "0 2 * * * \x1b[31m",
        "*/" + "9" * 150 + "x * * * *",
        "9" * 10_000,
        "1," * 5_000 + "1 * * * *",
        "* " * 5_000,
        "@" * 10_000,
    ],
)
def test_a_hostile_expression_is_refused_with_a_short_sentence(cron: str) -> None:
    sentence = problems(Timetable(cron=cron, time_zone="Europe/Paris"))["cron"]
    assert len(sentence) < 250
    assert sentence.isprintable()
    assert sentence.endswith(".")
    with pytest.raises(ValueError, match=re.escape(sentence)):
        next_slot(Timetable(cron=cron), NOW, NOW)


@pytest.mark.parametrize("cron", ["*/" + "9" * 150 + " * * * *", "0,0,0 0 * * *", "00 02 01 01 07", "59 23 31 12 SAT"])
def test_an_odd_expression_works(cron: str) -> None:
    assert problems(Timetable(cron=cron)) == {}
    assert next_slot(Timetable(cron=cron), NOW, NOW) > NOW


def test_a_rare_expression_is_found_decades_ahead() -> None:
    """The longest time between two leap days on one day of the week is forty years, around 2100."""
    timetable = Timetable(cron="0 0 29 2 */7")
    assert problems(timetable) == {}
    assert next_slot(timetable, datetime(2088, 3, 1, tzinfo=UTC), NOW) == datetime(2128, 2, 29, tzinfo=UTC)
    assert last_slot(timetable, datetime(2128, 2, 28, tzinfo=UTC), NOW) == datetime(2088, 2, 29, tzinfo=UTC)


@settings(deadline=None)
@given(st.text(alphabet="0123456789*/,-#LWMONFRI@ \t", max_size=40))
def test_any_text_is_an_expression_with_slots_or_has_a_problem(cron: str) -> None:
    timetable = Timetable(cron=cron)
    if not problems(timetable):
        assert next_slot(timetable, NOW, NOW) > NOW

"""Slots: the moments at which a timetable is due. Pure.

The slots of a cron expression are times of a clock on the wall in the time zone of the timetable. Where clocks change,
these rules apply:

- A time that the clock skips is due once, right after the gap.
- A time that the clock shows twice is due once, the first time.
- An expression that allows every hour, such as ``*/15 * * * *``, is due whenever the clock shows a matching minute. So
  nothing is missed while an hour is repeated, and nothing is made up for after a gap.

The slots of a timetable with *every* are the anchor and whole multiples of *every* after it. The anchor is the time at
which the schedule was created. It counts in whole seconds, so that a record of it gives the same slots.

All moments are aware and in UTC, except those of `upcoming`. Functions other than `problems` need a timetable without
problems, and raise ValueError if it has some.
"""

from __future__ import annotations

import difflib
import hashlib
import zoneinfo
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from itertools import islice, pairwise, takewhile
from typing import Final
from zoneinfo import ZoneInfo

from mirror.errors import quoted
from mirror.records.schedule import Timetable
from mirror.schedules.cron import CronExpression, parse_cron

_SHORTEST_PERIOD: Final = timedelta(minutes=1)
_LONGEST_PERIOD: Final = timedelta(days=366)
_LONGEST_JITTER: Final = timedelta(hours=24)
_COMPARED_SLOTS: Final = 50
_LONGEST_ZONE_NAME: Final = 64
_ZONES_OF_NO_PLACE: Final = frozenset({"localtime", "Factory"})
"""``localtime`` differs from machine to machine, and ``Factory`` means that no zone is set."""
_FIRST: Final = datetime(1900, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9998, 1, 1, tzinfo=UTC)
"""Slots are computed between these two, so that no offset of a zone leaves the calendar of Python."""
_SOME_DAY: Final = datetime(2024, 1, 1, tzinfo=UTC)
"""The gaps between slots are measured from here on, so that the same timetable is refused on every day."""
_NOTHING: Final = timedelta(0)
_MILLISECOND: Final = timedelta(milliseconds=1)


def problems(timetable: Timetable) -> dict[str, str]:
    """Return what is wrong with each field, as a sentence. Empty if all is well."""
    found = _problems_of_times(timetable) | _problem_of_zone(timetable.time_zone)
    if not _NOTHING <= timetable.jitter <= _LONGEST_JITTER:
        found["jitter"] = "The jitter must be between 0s and 24h."
    if not found and timetable.jitter:
        shortest = _shortest_gap(timetable)
        if timetable.jitter > shortest:
            minutes, seconds = divmod(int(shortest.total_seconds()), 60)
            written = f"{60 * minutes + seconds}s" if seconds else f"{minutes}m"
            found["jitter"] = (
                f"The jitter is longer than the shortest time between two slots, {written}, "
                "so runs would overtake each other."
            )
    return found


def next_slot(timetable: Timetable, after: datetime, anchor: datetime) -> datetime:
    """Return the first slot after *after*. Raises ValueError if the calendar ends before it."""
    slot = next(_slots(timetable, after, anchor), None)
    if slot is None:
        raise ValueError(f"The timetable has no slot after {after:%Y-%m-%d}.")
    return slot


def last_slot(timetable: Timetable, until: datetime, anchor: datetime) -> datetime | None:
    """Return the last slot at or before *until*, or None if there is none after the anchor."""
    if timetable.every is not None:
        periods = _periods(anchor, timetable.every, until)
        return _multiple(anchor, timetable.every, periods) if periods >= 1 else None
    slot = _last_due(_expression(timetable), _zone(timetable), max(min(until, _LAST), _FIRST))
    return slot if slot is not None and slot > anchor else None


def count_slots(timetable: Timetable, after: datetime, until: datetime, anchor: datetime, limit: int = 1000) -> int:
    """Count the slots after *after* and after the anchor, up to and with *until*. Stop at *limit*."""
    start = max(after, anchor)
    if timetable.every is not None:
        periods = [_periods(anchor, timetable.every, moment) for moment in (start, until)]
        return max(0, min(periods[1] - periods[0], limit))
    slots = takewhile(lambda slot: slot <= until, _slots(timetable, start, anchor))
    return sum(1 for _ in islice(slots, limit))


def run_at(timetable: Timetable, slot: datetime, schedule_id: str) -> datetime:
    """Return when the run of *slot* starts: the slot, and a part of the jitter.

    The part depends on schedule and slot only, so every scheduler computes the same moment, in whole milliseconds. It
    is before the next slot, also on a day on which the clock skips an hour.
    """
    if not timetable.jitter:
        return slot
    following = next(_slots(timetable, slot, slot), _LAST)
    room = min(timetable.jitter, following - slot) // _MILLISECOND
    text = f"{schedule_id} {slot.astimezone(UTC).isoformat()}"
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    return slot + (number * room >> 64) * _MILLISECOND


def upcoming(timetable: Timetable, after: datetime, anchor: datetime, n: int) -> list[datetime]:
    """Return the next *n* slots by the clock of the zone, with offsets. There are fewer if the calendar ends."""
    zone = _zone(timetable)
    return [_with_offset(slot.astimezone(zone)) for slot in islice(_slots(timetable, after, anchor), n)]


def _problems_of_times(timetable: Timetable) -> dict[str, str]:
    if timetable.cron is not None and timetable.every is not None:
        return {"every": "Write either 'cron' or 'every', not both."}
    if timetable.every is not None:
        if _SHORTEST_PERIOD <= timetable.every <= _LONGEST_PERIOD:
            return {}
        return {"every": "The time between two slots must be between 1m and 366d."}
    if timetable.cron is None:
        return {"cron": "Write either 'cron' or 'every'."}
    try:
        parse_cron(timetable.cron)
    except ValueError as error:
        return {"cron": str(error)}
    return {}


def _problem_of_zone(name: str) -> dict[str, str]:
    """Look the name up in a list, so that no name of a user becomes the path of a file."""
    if name in _zone_names():
        return {}
    written = name[:_LONGEST_ZONE_NAME].lower().replace(" ", "_")
    known = _spellings_of_zones()
    close = [written] if written in known else difflib.get_close_matches(written, _places(), n=1, cutoff=0.8)
    hint = f"Did you mean {known[close[0]]}?" if close else "Write a name such as Europe/Paris or UTC."
    return {"time_zone": f"The time zone {quoted(name, _LONGEST_ZONE_NAME)} is not known. {hint}"}


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones() - _ZONES_OF_NO_PLACE)


@cache
def _spellings_of_zones() -> dict[str, str]:
    """Return zones by their names in lower case, and by their places: ``paris`` is Europe/Paris."""
    names = sorted(_zone_names(), reverse=True)
    places = {name.lower().rpartition("/")[2]: name for name in names if "/" in name and not name.startswith("Etc/")}
    return places | {name.lower(): name for name in names}


@cache
def _places() -> tuple[str, ...]:
    """Return the spellings that a typing error may be close to. Abbreviations are too short: CEST is not EST."""
    return tuple(name for name, zone in _spellings_of_zones().items() if "/" in zone)


def _shortest_gap(timetable: Timetable) -> timedelta:
    slots = islice(_slots(timetable, _SOME_DAY, _SOME_DAY), _COMPARED_SLOTS)
    return min((later - earlier for earlier, later in pairwise(slots)), default=_LONGEST_JITTER)


def _expression(timetable: Timetable) -> CronExpression:
    if timetable.cron is None:
        raise ValueError("The timetable has neither 'cron' nor 'every'.")
    return parse_cron(timetable.cron)


def _zone(timetable: Timetable) -> ZoneInfo:
    try:
        return ZoneInfo(timetable.time_zone)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"The time zone {quoted(timetable.time_zone, _LONGEST_ZONE_NAME)} cannot be read.") from None


def _slots(timetable: Timetable, after: datetime, anchor: datetime) -> Iterator[datetime]:
    """Yield the slots after *after*, the next first."""
    if timetable.every is None:
        expression, zone = _expression(timetable), _zone(timetable)
        slot = _first_due(expression, zone, max(after, _FIRST))
        while slot is not None:
            yield slot
            slot = _first_due(expression, zone, slot)
        return
    periods = max(_periods(anchor, timetable.every, after), 0)
    while (slot := _multiple(anchor, timetable.every, periods := periods + 1)) < _LAST:
        yield slot


def _periods(anchor: datetime, every: timedelta, moment: datetime) -> int:
    """Return how many whole periods lie between the anchor and *moment*."""
    return (moment - anchor.replace(microsecond=0)) // every


def _multiple(anchor: datetime, every: timedelta, periods: int) -> datetime:
    try:
        return anchor.astimezone(UTC).replace(microsecond=0) + periods * every
    except OverflowError:
        return _LAST


def _first_due(expression: CronExpression, zone: ZoneInfo, after: datetime) -> datetime | None:
    """Return the first moment after *after* at which *expression* is due.

    While a clock repeats an hour, a time that it has shown before may be due again. So the search starts earlier then.
    """
    if after >= _LAST:
        return None
    local = after.astimezone(zone)
    again: datetime | None = None
    for wall in expression.after(_wall(local) - _repeated(local)):
        moments = _moments(wall, zone, expression.is_hourly)
        if moments and moments[0] > after:
            return min(moments[0], again or moments[0])
        if again is None and moments and moments[-1] > after:
            again = moments[-1]
    return None


def _last_due(expression: CronExpression, zone: ZoneInfo, until: datetime) -> datetime | None:
    """Return the last moment at or before *until* at which *expression* is due: `_first_due` in reverse."""
    local = until.astimezone(zone)
    once: datetime | None = None
    for wall in expression.until(_wall(local) + _repeated(local)):
        moments = _moments(wall, zone, expression.is_hourly)
        if moments and moments[-1] <= until:
            return max(moments[-1], once or moments[-1])
        if once is None and moments and moments[0] <= until:
            once = moments[0]
    return None


def _wall(local: datetime) -> datetime:
    """Return what the clock shows, without a zone."""
    return local.replace(tzinfo=None)


def _offset(local: datetime, fold: int) -> timedelta:
    return local.replace(fold=fold).utcoffset() or _NOTHING


def _with_offset(local: datetime) -> datetime:
    """Replace the zone by its offset. Python compares no two zones while a clock shows a time twice (PEP 495)."""
    return local.replace(tzinfo=timezone(_offset(local, local.fold)), fold=0)


def _repeated(local: datetime) -> timedelta:
    """Return how far the clock goes back if it shows *local* twice. Otherwise zero."""
    return max(_offset(local, 0) - _offset(local, 1), _NOTHING)


def _moments(wall: datetime, zone: ZoneInfo, is_hourly: bool) -> tuple[datetime, ...]:
    """Return when a slot at *wall* is due, in order.

    The offsets of the two folds differ if the clock skips *wall* or shows it twice (PEP 495).
    """
    local = wall.replace(tzinfo=zone)
    before, after = _offset(local, 0), _offset(local, 1)
    first, second = ((wall - offset).replace(tzinfo=UTC) for offset in (before, after))
    if before == after:
        return (first,)
    if before > after:
        return (first, second) if is_hourly else (first,)
    return () if is_hourly else (_end_of_gap(second, first, zone, after),)


def _end_of_gap(before: datetime, after: datetime, zone: ZoneInfo, offset: timedelta) -> datetime:
    """Return the first moment, of those from *before* to *after*, at which *zone* has *offset*."""

    def has_offset(second: int) -> bool:
        return (before + timedelta(seconds=second)).astimezone(zone).utcoffset() == offset

    seconds = range((after - before) // timedelta(seconds=1) + 1)
    return before + timedelta(seconds=bisect_left(seconds, 1, key=has_offset))

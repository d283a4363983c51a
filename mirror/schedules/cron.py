"""Cron expressions of five fields. Pure, and without time zones.

The package cronsim reads the fields and finds the matching minutes. This module adds the aliases, sentences that say
what is wrong, and bounds. What a field may be is in docs/reference/schedules.md.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import MAXYEAR, datetime, timedelta
from functools import lru_cache
from itertools import takewhile
from typing import Final, Self

from cronsim import CronSim, CronSimError

from mirror.errors import quoted

_ALIASES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FIELDS: Final = (
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of the month", "1 to 31, L or LW"),
    ("month", "1 to 12 or JAN to DEC"),
    ("day of the week", "0 to 7 or SUN to SAT, as in FRI, MON#1 or 5L"),
)
_FIVE: Final = "the five fields are minute, hour, day of the month, month and day of the week"
_LONGEST: Final = 200
_SHOWN: Final = 60
_CHARACTERS: Final = re.compile(r"[0-9A-Za-z*/,#-]+")
_EVERY_HOUR: Final = frozenset(range(24))
_SOME_DAY: Final = datetime(2000, 1, 1)  # noqa: DTZ001 - what a clock on the wall shows
"""From here it is checked that an expression fires. It does not depend on today, so neither does what is refused."""


@dataclass(frozen=True, slots=True)
class CronExpression:
    """The minutes that a cron expression names, as a clock on the wall shows them.

    *is_hourly* is true if the expression allows every hour of the days that it names.
    """

    is_hourly: bool
    _matcher: CronSim

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an expression or an alias. Raises ValueError with a sentence for the user."""
        if len(text) > _LONGEST:
            raise ValueError(f"A cron expression has at most {_LONGEST} characters, and this one has {len(text)}.")
        fields = _fields(text.split())
        for (name, allowed), field, position in zip(_FIELDS, fields, range(5), strict=True):
            try:
                CronSim(" ".join(["*"] * position + [field] + ["*"] * (4 - position)), _SOME_DAY)
            except CronSimError:
                raise ValueError(
                    f"The {name} {quoted(field, _SHOWN)} is not understood: write {allowed}, "
                    "or *, a range that counts upwards, a step such as */2, or a list of these."
                ) from None
        shown = quoted(text.strip(), _SHOWN)
        try:
            matcher = CronSim(" ".join(fields), _SOME_DAY)
            next(copy.copy(matcher))
        except (CronSimError, StopIteration):
            raise ValueError(f"The expression {shown} never fires: no day of the calendar matches it.") from None
        return cls(matcher.hours >= _EVERY_HOUR, matcher)

    def after(self, wall: datetime) -> Iterator[datetime]:
        """Yield the times after *wall*, the next first. All are without a time zone."""
        return self._iterate(wall.replace(microsecond=0), 1)

    def until(self, wall: datetime) -> Iterator[datetime]:
        """Yield *wall* itself, if it matches, and the times before it, the last first."""
        return self._iterate(wall.replace(microsecond=0) + timedelta(seconds=1), -1)

    def explain(self) -> str:
        """Return the expression in words: "At 02:30 every day"."""
        return self._matcher.explain()

    def _iterate(self, start: datetime, direction: int) -> Iterator[datetime]:
        # A copy of the parsed expression that starts elsewhere: to parse takes as long as to find the next time.
        matcher = copy.copy(self._matcher)
        matcher.dt, matcher.tick_direction = start, direction
        try:
            yield from takewhile(lambda wall: wall.year < MAXYEAR, matcher)
        except OverflowError:  # The search has left the calendar.
            return


@lru_cache(maxsize=4096)
def parse_cron(text: str) -> CronExpression:
    """Read an expression, or take the one that was read before. Raises ValueError with a sentence for the user."""
    return CronExpression.parse(text)


def _fields(parts: list[str]) -> list[str]:
    """Return the five fields of an expression or an alias."""
    first = parts[0] if parts else ""
    if first.startswith("@"):
        return _fields_of_alias(" ".join(parts))
    if first.startswith(("TZ=", "CRON_TZ=")):
        raise ValueError(f"Write the zone of {quoted(first, _SHOWN)} as 'time_zone', next to 'cron'.")
    strange = next((part for part in parts if not _CHARACTERS.fullmatch(part)), None)
    if strange is not None:
        hint = "Write * where Quartz has ?." if "?" in strange else "Write digits, letters and * / , - #."
        raise ValueError(f"The field {quoted(strange, _SHOWN)} has a character that no field has. {hint}")
    if len(parts) == 6:
        raise ValueError(f"The expression has 6 fields: {_FIVE}. Seconds are not known, so leave the first field out.")
    if len(parts) != 5:
        raise ValueError(f"The expression has {len(parts)} fields: {_FIVE}.")
    return parts


def _fields_of_alias(alias: str) -> list[str]:
    if alias == "@reboot":
        raise ValueError("'@reboot' names no time. To run once after each change, set 'run_on_change'.")
    if alias.startswith("@every"):
        raise ValueError("'@every' is not known. Write 'every' in the place of 'cron', as in \"every\": \"6h\".")
    if alias not in _ALIASES:
        raise ValueError(f"The alias {quoted(alias, _SHOWN)} is not known. Known are {', '.join(_ALIASES)}.")
    return _ALIASES[alias].split()

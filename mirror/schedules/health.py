"""How schedules do, in one word for each, and in one summary of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, get_args

from mirror.records.schedule import Schedule
from mirror.records.schedules import ScheduleOutline
from mirror.schedules.tick import LATE

HealthState = Literal["disabled", "new", "healthy", "failing", "late"]
HEALTH_STATES: Final[tuple[HealthState, ...]] = get_args(HealthState)


@dataclass(frozen=True, slots=True)
class HealthSummary:
    """How many schedules are in which state. *failing* and *late* name the first of them, and say since when."""

    counts: Mapping[str, int]
    failing: tuple[str, ...]
    late: tuple[str, ...]


def health_state(schedule: Schedule | ScheduleOutline, now: datetime) -> HealthState:
    """Return in one word how a schedule does.

    A schedule is ``late`` if no scheduler has started a run that was due minutes ago. Otherwise its last runs decide.
    """
    if schedule.next_run_at is None:
        return "disabled"
    if now - schedule.next_run_at > LATE:
        return "late"
    if schedule.health.consecutive_failures:
        return "failing"
    return "healthy" if schedule.health.last_success_at else "new"


def summarize(outlines: Iterable[ScheduleOutline], now: datetime, *, names: int) -> HealthSummary:
    """Count schedules by their states. At most *names* of those that are failing or late are named, each."""
    counts: Counter[HealthState] = Counter()
    failing: list[str] = []
    late: list[str] = []
    for outline in outlines:
        state = health_state(outline, now)
        counts[state] += 1
        if state == "failing" and len(failing) < names:
            failing.append(f"{outline.name} ({_failures(outline, now)})")
        elif state == "late" and outline.next_run_at and len(late) < names:
            late.append(f"{outline.name} (due {_shown(now - outline.next_run_at)} ago)")
    return HealthSummary({state: counts[state] for state in HEALTH_STATES}, tuple(failing), tuple(late))


def _failures(outline: ScheduleOutline, now: datetime) -> str:
    count, succeeded_at = outline.health.consecutive_failures, outline.health.last_success_at
    runs = "1 failure" if count == 1 else f"{count} failures"
    return f"{runs}, last success {_shown(now - succeeded_at)} ago" if succeeded_at else f"{runs}, no success yet"


def _shown(duration: timedelta) -> str:
    """Return a duration in its largest whole unit: ``3 d``, ``5 h`` or ``12 min``."""
    minutes = max(duration // timedelta(minutes=1), 0)
    return f"{minutes // 1440} d" if minutes >= 2880 else f"{minutes // 60} h" if minutes >= 120 else f"{minutes} min"

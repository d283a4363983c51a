from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mirror.records.schedule import ScheduleHealth
from mirror.records.schedules import ScheduleOutline
from mirror.schedules.health import health_state, summarize

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def outline(
    name: str = "s", *, due: timedelta | None = timedelta(hours=1), failures: int = 0, ago: timedelta | None = None
) -> ScheduleOutline:
    """A schedule that is due in *due*, and whose last success was *ago*."""
    health = ScheduleHealth(last_success_at=None if ago is None else NOW - ago, consecutive_failures=failures)
    return ScheduleOutline(f"id-{name}", name, None if due is None else NOW + due, health, {}, 0)


@pytest.mark.parametrize(
    ("schedule", "state"),
    [
        (outline(), "new"),
        (outline(ago=timedelta(days=1)), "healthy"),
        (outline(failures=1, ago=timedelta(days=1)), "failing"),
        (outline(due=timedelta(minutes=-5)), "new"),
        (outline(due=timedelta(minutes=-5, milliseconds=-1), failures=1), "late"),
        (outline(due=None, failures=1), "disabled"),
    ],
)
def test_the_first_state_that_fits_is_shown(schedule: ScheduleOutline, state: str) -> None:
    assert health_state(schedule, NOW) == state


def test_a_summary_counts_all_and_names_the_first() -> None:
    outlines = [
        *[outline(f"f{n}", failures=n + 1, ago=timedelta(hours=n) if n else None) for n in range(4)],
        outline("l", due=timedelta(hours=-50)),
        outline("off", due=None),
        outline("new"),
    ]
    found = summarize(iter(outlines), NOW, names=3)
    assert found.counts == {"disabled": 1, "new": 1, "healthy": 0, "failing": 4, "late": 1}
    assert found.failing == (
        "f0 (1 failure, no success yet)",
        "f1 (2 failures, last success 60 min ago)",
        "f2 (3 failures, last success 2 h ago)",
    )
    assert found.late == ("l (due 2 d ago)",)

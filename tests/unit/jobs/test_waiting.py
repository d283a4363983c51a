"""What a queued job waits for when no worker or scheduler is alive. No server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mirror.jobs.waiting import Fleet, explain_wait
from mirror.records.fields import timestamp
from mirror.records.processes import ALIVE_SECONDS, LiveProcess
from mirror.records.task import WaitingFor

NOW = datetime(2026, 11, 23, 22, tzinfo=UTC)
ALIVE = [LiveProcess("host:1", "copying", 1.0), LiveProcess("host:2", "idle", 500.0)]
DEAD = [LiveProcess("host:1", "copying", ALIVE_SECONDS + 1)]


def parked(seconds: float) -> WaitingFor:
    """A wait that ends so many seconds from now."""
    return WaitingFor("rate_limited", timestamp(NOW + timedelta(seconds=seconds)), "docker.io")


@pytest.mark.parametrize(
    ("state", "record", "workers", "schedulers", "expected"),
    [
        ("queued", None, ALIVE, ALIVE, None),
        ("queued", None, [], ALIVE, "no_worker"),
        ("queued", None, DEAD, ALIVE, "no_worker"),
        ("queued", None, ALIVE, [], None),
        ("queued", parked(60), [], [], "rate_limited"),
        ("queued", parked(-1), ALIVE, ALIVE, "rate_limited"),
        ("queued", parked(-1), DEAD, ALIVE, "no_worker"),
        ("queued", parked(-29), ALIVE, DEAD, "rate_limited"),
        ("queued", parked(-31), ALIVE, DEAD, "no_scheduler"),
        ("running", None, [], [], None),
        ("succeeded", None, [], [], None),
        ("canceled", None, [], [], None),
    ],
)
def test_a_job_says_who_is_missing_only_where_that_is_what_it_waits_for(
    state: str,
    record: WaitingFor | None,
    workers: list[LiveProcess],
    schedulers: list[LiveProcess],
    expected: str | None,
) -> None:
    found = explain_wait(state, record, Fleet(workers, schedulers), NOW)
    assert (found and found.reason) == expected


def test_the_message_says_since_when() -> None:
    found = explain_wait("queued", None, Fleet(DEAD, []), NOW)
    assert found is not None
    assert found.message == (
        "No worker is alive: the last heartbeat of one was 21 s ago. Start one, or look at /readyz?verbose."
    )

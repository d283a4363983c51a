"""The states of tasks and jobs: which event leads from which state to which.

The Lua scripts next to this file make the same transitions in Redis, each of them atomically. One test suite runs both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

from mirror.errors import LONGEST_REST
from mirror.redis.scripts import load_script

TaskState = Literal["queued", "running", "succeeded", "failed", "canceled"]
"""What the API shows. A task that is pending or parked shows as queued."""
TaskPlace = Literal["pending", "queued", "running", "parked", "succeeded", "failed", "canceled"]
TaskEvent = Literal[
    "release into window", "claim", "succeed", "fail", "hand back", "park", "unpark", "expire", "cancel", "retry"
]
JobState = Literal["queued", "running", "succeeded", "partial", "failed", "canceled"]
JOB_STATES: Final[tuple[JobState, ...]] = get_args(JobState)
UNFINISHED: Final[tuple[JobState, ...]] = ("queued", "running")
RETRYABLE: Final[tuple[JobState, ...]] = ("partial", "failed", "canceled")

TASK_TRANSITIONS: Final[Mapping[tuple[TaskPlace, TaskEvent], TaskPlace]] = {
    ("pending", "release into window"): "queued",
    ("queued", "claim"): "running",
    ("running", "succeed"): "succeeded",
    ("running", "fail"): "failed",
    ("running", "hand back"): "queued",
    ("running", "park"): "parked",
    ("running", "expire"): "queued",
    ("parked", "unpark"): "queued",
    ("pending", "cancel"): "canceled",
    ("queued", "cancel"): "canceled",
    ("parked", "cancel"): "canceled",
    ("running", "cancel"): "running",
    ("failed", "retry"): "pending",
    ("canceled", "retry"): "pending",
}
"""Any other event changes nothing. After three losses in a row `expire` leads to failed instead."""

WINDOW: Final = 256
"""Tasks of one job that are released at once: enough for a large fleet, and few enough for other jobs to be served."""
FAIR_SHARE: Final = 8
"""Queued and running tasks of one job in the short lane: as many as one work horse copies at once."""
STEP: Final = 500
"""Tasks that one script touches at most, which takes about 10 ms."""
RETENTION_SECONDS: Final = 30 * 86400
"""How long an ended job is kept if its submission did not say."""
LOSSES_ALLOWED: Final = 3
"""Workers that a task may lose in a row without getting further. Then it fails."""
MOST_PLAN_BLOBS: Final = 500_000
"""Distinct blobs that the totals of one plan count exactly. They take 27 MB of Redis' memory."""
_STEP_SECONDS: Final = 10
"""After so long the reconciler continues a request whose process died."""
_WINDOW_SECONDS: Final = 30
"""How often the reconciler looks whether a window has room that no ending task has filled."""
_SUBMISSION_SECONDS: Final = 600
"""After so long the tasks of a job that was never stored are deleted."""


def next_place(place: TaskPlace, event: TaskEvent, *, canceling: bool = False, losses: int = 0) -> TaskPlace | None:
    """Return where an event leads, or None if it is refused.

    While its job is *canceling*, a task can succeed, and everything else ends it as canceled. *losses* counts the
    losses in a row, this one included.
    """
    after = TASK_TRANSITIONS.get((place, event))
    if after is None or (event == "release into window" and canceling):
        return None
    if canceling and event in ("claim", "fail", "hand back", "park", "expire"):
        return "canceled"
    return "failed" if event == "expire" and losses >= LOSSES_ALLOWED else after


def job_state(*, total: int, succeeded: int, failed: int, canceled: int, running: int) -> JobState:
    """Return the state of a job from its counters."""
    if succeeded + failed + canceled < total:
        return "running" if running else "queued"
    if not failed:
        return "canceled" if canceled else "succeeded"
    return "partial" if succeeded else "failed"


def job_script(file: str) -> str:
    """Load a script of this package with the numbers above."""
    constants = {
        "WINDOW": WINDOW,
        "FAIR_SHARE": FAIR_SHARE,
        "STEP": STEP,
        "MOST_PLAN_BLOBS": MOST_PLAN_BLOBS,
        "RETENTION_SECONDS": RETENTION_SECONDS,
        "STEP_SECONDS": _STEP_SECONDS,
        "WINDOW_SECONDS": _WINDOW_SECONDS,
        "SUBMISSION_SECONDS": _SUBMISSION_SECONDS,
        "LONGEST_WAIT_MS": int(LONGEST_REST * 1000),
    }
    return load_script("mirror.records", file, constants=constants)

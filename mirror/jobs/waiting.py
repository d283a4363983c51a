"""Why a queued job does not move: no worker or scheduler may be alive.

That is decided when the job is read. A process that is not alive cannot write it to the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mirror.records.processes import LiveProcess
from mirror.records.task import WaitingFor

_OVERDUE: Final = timedelta(seconds=30)
"""How long after its wait a task is surely not queued by a scheduler, which looks every 2 s."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The heartbeats of the workers and schedulers, newest first."""

    workers: Sequence[LiveProcess]
    schedulers: Sequence[LiveProcess]


def explain_wait(state: str, waiting_for: WaitingFor | None, fleet: Fleet, now: datetime) -> WaitingFor | None:
    """Return what a job or task waits for.

    *state* and *waiting_for* are those of its record. No I/O.
    """
    if state != "queued":
        return waiting_for
    waits_until = datetime.fromisoformat(waiting_for.until) if waiting_for and waiting_for.until else None
    if waits_until and waits_until > now:
        return waiting_for
    if not any(beat.is_alive for beat in fleet.workers):
        return _none_alive("no_worker", "worker", fleet.workers)
    if waits_until and now - waits_until > _OVERDUE and not any(beat.is_alive for beat in fleet.schedulers):
        return _none_alive("no_scheduler", "scheduler", fleet.schedulers)
    return waiting_for


def _none_alive(reason: str, kind: str, beats: Sequence[LiveProcess]) -> WaitingFor:
    seen = f"the last heartbeat of one was {beats[0].age:.0f} s ago" if beats else "none has been seen lately"
    return WaitingFor(reason, None, message=f"No {kind} is alive: {seen}. Start one, or look at /readyz?verbose.")

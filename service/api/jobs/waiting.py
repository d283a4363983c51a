"""Why a job or a task waits, as responses show it."""

from __future__ import annotations

from datetime import UTC, datetime

from flask import g

from mirror.jobs.waiting import Fleet, explain_wait
from mirror.records.job import Job
from mirror.records.task import Task, WaitingFor
from service.core import core


def shown_wait(record: Job | Task) -> WaitingFor | None:
    """Return why the record waits.

    Heartbeats are read only if something is queued, and once per request.
    """
    if record.state != "queued":
        return record.waiting_for
    if "fleet" not in g:
        processes = core().processes
        g.fleet = Fleet(processes.of("worker"), processes.of("scheduler"))
    return explain_wait(record.state, record.waiting_for, g.fleet, datetime.now(UTC))

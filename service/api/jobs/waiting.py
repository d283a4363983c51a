"""Why a job or a task waits, as responses show it."""

from __future__ import annotations

from flask import g

from mirror.jobs.waiting import Fleet, explain_wait
from mirror.records.fields import at
from mirror.records.job import Job
from mirror.records.task import Task, WaitingFor
from service.core import core


def shown_wait(record: Job | Task) -> WaitingFor | None:
    """Return why the record waits.

    Heartbeats and the time are read only if something is queued, and once per request.
    """
    if record.state != "queued":
        return record.waiting_for
    if "fleet" not in g:
        processes = core().processes
        g.fleet = Fleet(processes.of("worker"), processes.of("scheduler"))
        g.now = at(core().redis.read_now())
    return explain_wait(record.state, record.waiting_for, g.fleet, g.now)

"""The documents of schedules, of their runs and of previews, as responses show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from mirror.records.job import Job
from mirror.records.run import Run
from mirror.records.schedule import Schedule, Timetable
from mirror.records.schedule_schema import definition_fields
from mirror.schedules import slots
from mirror.schedules.cron import parse_cron
from mirror.schedules.health import health_state
from service.api.jobs.document import job_summary
from service.core import core
from service.http.pagination import public_url

_UNITS: Final = {"day": 86400, "hour": 3600, "minute": 60, "second": 1}


def schedule_document(schedule: Schedule, now: datetime) -> dict[str, Any]:
    """Return a schedule as it is at *now*, by the wall clock of schedules."""
    return {
        **definition_fields(schedule.definition),
        **{name: getattr(schedule, name) for name in ("id", "version", "origin", "owner", "created_at", "updated_at")},
        "next_run": schedule.next_slot and {"slot": schedule.next_slot, "starts_at": schedule.next_run_at},
        "health": _health(schedule, now),
        "links": _links(schedule),
    }


def run_documents(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return runs with their jobs, which are read in one round trip."""
    jobs = core().jobs.found([run.job for run in runs if run.job])
    return [_run_document(run, jobs.get(run.job or "")) for run in runs]


def preview_document(timetable: Timetable, times: Iterable[datetime], schedule_id: str | None) -> dict[str, Any]:
    """Return the next times of a timetable. *schedule_id* is None for a schedule that is not stored."""

    def starts_at(slot: datetime) -> datetime | None:
        if schedule_id is None:
            return None if timetable.jitter else slot
        return slots.run_at(timetable, slot, schedule_id)

    return {
        "time_zone": timetable.time_zone,
        "description": _description(timetable),
        "times": [{"slot": slot, "local": slot.isoformat(), "starts_at": starts_at(slot)} for slot in times],
    }


def _description(timetable: Timetable) -> str:
    """Return the timetable in words, without its time zone."""
    if timetable.every is None:
        return parse_cron(timetable.cron or "").explain()
    seconds = int(timetable.every.total_seconds())
    unit, length = next((unit, length) for unit, length in _UNITS.items() if seconds % length == 0)
    return f"Every {unit}" if seconds == length else f"Every {seconds // length} {unit}s"


def _health(schedule: Schedule, now: datetime) -> dict[str, Any]:
    health = schedule.health
    last_run = health.last_run and {"id": health.last_run, "state": health.last_state, "at": health.last_run_at}
    succeeded_at = health.last_success_at
    return {
        "state": health_state(schedule, now),
        "last_run": last_run,
        "last_success_at": succeeded_at,
        "lag_seconds": max(int((now - succeeded_at).total_seconds()), 0) if succeeded_at else None,
        "consecutive_failures": health.consecutive_failures,
        "running": schedule.open_run,
        "queued": schedule.queued_run,
    }


def _links(schedule: Schedule) -> dict[str, str]:
    """Return URLs with the id of the schedule, which stay right when it gets another name."""
    views = {
        "self": "read_schedule",
        "run": "run_schedule",
        "runs": "list_runs",
        "preview": "preview_schedule",
        "drift": "read_drift",
    }
    return {link: public_url(f"schedules.{view}", name=schedule.id) for link, view in views.items()}


def _run_document(run: Run, job: Job | None) -> dict[str, Any]:
    links = {
        "self": public_url("schedules.read_run", name=run.schedule, run_id=run.id),
        "schedule": public_url("schedules.read_schedule", name=run.schedule),
    }
    return {**asdict(run), "job": job_summary(job) if job else None, "links": links}

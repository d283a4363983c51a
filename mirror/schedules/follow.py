"""Follow the sources of runs whose jobs have ended, and end those runs. See deletions.py.

Deletions take time. So they are a periodic task of their own, and the tick that starts runs does not wait for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, cast

import structlog

from mirror.background import record_fault
from mirror.catalog.overwrite import MOVED
from mirror.errors import JobUnknown, MirrorError, RedisUnavailable, RunUnknown, ScheduleUnknown
from mirror.records.job import Job
from mirror.records.jobs import JobStore
from mirror.records.run import Run, RunNote, RunState
from mirror.records.runs import RunStore
from mirror.records.schedule import Schedule
from mirror.records.schedules import ScheduleStore
from mirror.records.states import UNFINISHED
from mirror.schedules.deletions import Deletions
from mirror.schedules.runs import Runs

_FAULT: Final = RunNote("INTERNAL_ERROR", "A fault in the mirror kept it from following the source: see the log")
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Follower:
    """Follows the sources of runs. Safe to share between threads. *now* is the wall clock."""

    schedules: ScheduleStore
    run_store: RunStore
    runs: Runs
    jobs: JobStore
    deletions: Deletions
    now: Callable[[], datetime]

    def run(self, alive: Callable[[], bool]) -> None:
        """Follow every run that waits for it, until *alive* returns False. Raises RedisUnavailable."""
        for run_id, what in self.run_store.open_runs(self.now()):
            if what == "following" and alive():
                self._attempt(run_id, alive)

    def _attempt(self, run_id: str, alive: Callable[[], bool]) -> None:
        """Follow one run. A fault ends it, so that it does not keep its schedule from running."""
        try:
            run = self.run_store.run(run_id)
            schedule, job = self.schedules.schedule(run.schedule), self.jobs.job(str(run.job))
        except (RunUnknown, ScheduleUnknown):
            return  # the tick ends the run
        except JobUnknown:
            self.runs.advance(run_id, "removed")
            return
        if job.state in UNFINISHED:  # somebody has retried it
            return
        try:
            self._follow(run, schedule, job, alive)
        except RedisUnavailable:
            raise
        except MirrorError as error:
            _LOG.warning("source of a run is not followed", run=run_id, code=error.code, reason=error.message)
            self._end(run, job, RunNote(error.code, error.message))
        except Exception as error:  # noqa: BLE001 - the others are followed
            record_fault("following the source of a run", error, run=run_id, schedule=schedule.definition.name)
            self._end(run, job, _FAULT)

    def _follow(self, run: Run, schedule: Schedule, job: Job, alive: Callable[[], bool]) -> None:
        counts: dict[str, int] = {"moved": self._moved(job)}
        note: RunNote | None = None
        targets: Sequence[str] = ()
        if schedule.definition.upstream.on_delete != "keep":
            followed = self.deletions.follow(run, schedule, alive)
            if followed is None:
                return
            counts |= followed.counts
            note, targets = followed.note, followed.targets
        self._end(replace(run, upstream=counts), job, note)
        self.deletions.followed.forget_deleted(schedule.id, targets)

    def _end(self, run: Run, job: Job, note: RunNote | None) -> None:
        self.runs.end(run, cast("RunState", job.state), note, only="following")

    def _moved(self, job: Job) -> int:
        """Count the tags that their source has moved and that stay as they are."""
        if not job.images.skipped:
            return 0
        skipped = (text for _, text in self.jobs.task_fields(job.id, "skipped") if text)
        return sum(json.loads(text).get("reason") == MOVED for text in skipped)

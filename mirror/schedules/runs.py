"""Start the jobs of runs, and end runs whose jobs have ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, Protocol

import structlog
from marshmallow import ValidationError

from mirror.errors import JobFinished, JobUnknown, MirrorError, RunUnknown, ScheduleUnknown, Unavailable
from mirror.records.job import USUAL, Job, JobOptions
from mirror.records.job_request import ImageRequest
from mirror.records.jobs import JobStore
from mirror.records.run import ENDED_RUNS, Run, RunNote, RunOrigin, RunState
from mirror.records.runs import RunStore
from mirror.records.schedule import Schedule, ScheduleDefinition
from mirror.records.schedule_schema import read_job
from mirror.records.schedules import ScheduleStore
from mirror.records.spec import TaskSpec
from mirror.records.task import Task

OVERLAP: Final = "OVERLAP"
MISSED: Final = "MISSED"
DEADLINE: Final = "DEADLINE_EXCEEDED"
_REMOVED: Final = RunNote("JOB_REMOVED", "The job of the run was deleted before its end was noticed")
_INVALID: Final = RunNote("SCHEDULE_INVALID", "This release does not understand the job of the schedule")
_LOG = structlog.get_logger(__name__)


class Submitter(Protocol):
    """What turns requests into jobs: `mirror.jobs.submit.Submitter`."""

    def submit(
        self, images: Sequence[ImageRequest], options: JobOptions = USUAL, run: RunOrigin | None = None
    ) -> tuple[Job, list[Task]]: ...

    def specs(
        self, images: Sequence[ImageRequest], options: JobOptions = USUAL, run: RunOrigin | None = None
    ) -> list[TaskSpec]: ...


class Runs:
    """Moves runs on. Every step may be repeated, and done by several processes. Safe to share between threads.

    *now* is the wall clock.
    """

    def __init__(
        self,
        schedules: ScheduleStore,
        runs: RunStore,
        jobs: JobStore,
        submitter: Submitter,
        now: Callable[[], datetime],
    ) -> None:
        self._schedules = schedules
        self._runs = runs
        self._jobs = jobs
        self._submitter = submitter
        self._now = now

    def start(self, run: Run, definition: ScheduleDefinition) -> None:
        """Submit the job of a run that is ``starting``. *definition* is the one that its claim has kept.

        A job that is refused ends the run as failed. Raises RedisUnavailable, and then the run stays as it is.
        """
        try:
            request = read_job(definition)
            self._submitter.submit(request.images, request.options, run.origin)
        except RunUnknown:  # another process was faster, or the schedule was deleted
            return
        except ValidationError:
            self.end(run, "failed", _INVALID, only="starting")
        except Unavailable:
            raise
        except MirrorError as error:  # a scheduler of another release may have started it meanwhile
            self.end(run, "failed", RunNote(error.code, error.message), only="starting")
        else:
            _LOG.info("run is started", schedule=definition.name, run=run.id, reason=run.reason, job_id=run.job)

    def advance(self, run_id: str, what: str) -> None:
        """Do what an open run needs: see open_runs.lua."""
        try:
            run = self._runs.run(run_id)
            schedule = self._schedules.schedule(run.schedule)
        except (RunUnknown, ScheduleUnknown):  # deleted meanwhile, with its runs
            return
        if what == "starting":
            self._start_again(run)
        elif what == "late":
            self._cancel(run, RunNote(DEADLINE, "The run was canceled after the deadline of its schedule"))
        elif what == "replaced":
            self._cancel(run, RunNote(OVERLAP, "The next run was due, and 'overlap' is 'cancel_running'"))
        elif what == "removed":
            self.end(run, "canceled", _REMOVED)
        elif ended := next((state for state in ENDED_RUNS if state == what), None):
            self._conclude(run, schedule, ended)

    def _start_again(self, run: Run) -> None:
        """Start a run whose process has died, or that has waited for the end of another."""
        try:
            definition = self._runs.definition(run)
        except (ValidationError, ValueError):
            self.end(run, "failed", _INVALID, only="starting")
            return
        if definition:
            self.start(run, definition)

    def end(self, run: Run, state: RunState, note: RunNote | None = None, *, only: RunState | None = None) -> None:
        """End a run, and count it in the health of its schedule. See `RunStore.settle` for *only*."""
        ended = replace(run, state=state, note=note or run.note, finished_at=self._now())
        is_success = None if _is_neutral(ended) else state == "succeeded"
        if self._runs.settle(ended, is_success=is_success, only=only):
            code = ended.note.code if ended.note else None
            log = _LOG.warning if is_success is False else _LOG.info
            log("run has ended", run=run.id, schedule_id=run.schedule, state=state, code=code)

    def _conclude(self, run: Run, schedule: Schedule, state: RunState) -> None:
        """End a run whose job has ended. If its source is to be followed, that comes first."""
        upstream = schedule.definition.upstream
        is_followed = upstream.on_delete != "keep" or upstream.on_move == "report"
        if is_followed and state in ("succeeded", "partial"):
            self._runs.note_state(run, "following")
        else:
            self.end(run, state)

    def _cancel(self, run: Run, note: RunNote) -> None:
        """Cancel the job of a run. The run ends when the job has ended."""
        if not self._runs.note(run, note):
            return
        try:
            self._jobs.cancel(str(run.job))
        except (JobFinished, JobUnknown):
            return
        _LOG.info("run is canceled", run=run.id, schedule_id=run.schedule, code=note.code)


def _is_neutral(run: Run) -> bool:
    """Whether a run says nothing about the health of its schedule: somebody has canceled it, or the next run has."""
    return run.state == "canceled" and (run.note is None or run.note.code != DEADLINE)

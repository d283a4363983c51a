"""Create, change, delete and run schedules: what the API and the sync file do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from mirror.errors import AddressNotAllowed, InvalidInput, RunUnfinished, ScheduleBusy, ScheduleChanged
from mirror.records.followed import FollowedTags
from mirror.records.ids import new_ulid
from mirror.records.job_request import JobRequest
from mirror.records.run import Run, RunReason
from mirror.records.runs import RunPlace, RunStore
from mirror.records.schedule import Origin, Schedule, ScheduleDefinition, Timetable
from mirror.records.schedule_schema import read_job
from mirror.records.schedules import ScheduleStore
from mirror.schedules import slots
from mirror.schedules.runs import Runs, Submitter
from mirror.schedules.tick import new_run, next_run

_OWNER: Final = "admin"
"""The owner of every schedule, as long as there is one token only."""
_ATTEMPTS: Final = 5
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Schedules:
    """The use cases of schedules. *now* is the wall clock. Safe to share between threads.

    Every method raises RedisUnavailable.
    """

    store: ScheduleStore
    runs: RunStore
    starter: Runs
    submitter: Submitter
    followed: FollowedTags
    now: Callable[[], datetime]

    def create(self, definition: ScheduleDefinition, origin: Origin = "api") -> Schedule:
        """Store a new schedule. Raises InvalidInput for a job that could never run, and ScheduleExists."""
        self.require_possible(definition)
        now = self.now()
        new = Schedule(f"schedule_{new_ulid(now)}", definition, 1, origin, _OWNER, now, now)
        stored = self._timed(new, now)
        self.store.put(stored)
        _LOG.info("schedule is created", schedule=definition.name, schedule_id=stored.id, origin=origin)
        if definition.run_on_change and definition.enabled:
            self._run_changed(stored)
        return stored

    def replace(
        self,
        schedule: Schedule,
        definition: ScheduleDefinition,
        *,
        version: int | None = None,
        origin: Origin | None = None,
    ) -> Schedule:
        """Replace the definition. Its runs, its claimed slots and its health stay. An equal one changes nothing.

        *version* is the one that the caller expects. None accepts any. Raises InvalidInput, ScheduleExists,
        ScheduleUnknown or ScheduleChanged.
        """
        if version not in (None, schedule.version):
            raise ScheduleChanged(schedule.definition.name, str(schedule.version))
        if definition == schedule.definition and origin in (None, schedule.origin):
            return schedule
        self.require_possible(definition)
        now = self.now()
        is_same_time = (definition.timetable, definition.enabled) == (
            schedule.definition.timetable,
            schedule.definition.enabled,
        )
        changed = replace(
            schedule,
            definition=definition,
            version=schedule.version + 1,
            updated_at=now,
            origin=origin or schedule.origin,
        )
        if not is_same_time:
            changed = self._timed(changed, now)
        self.store.put(changed, replaces=schedule.version, keeps_slot=is_same_time)
        if definition.upstream.on_delete == "keep":
            self.followed.forget(schedule.id)
        _LOG.info("schedule is changed", schedule=definition.name, schedule_id=schedule.id, version=changed.version)
        if definition.run_on_change and definition.enabled and definition.job != schedule.definition.job:
            self._run_changed(changed)
        return changed

    def delete(self, schedule: Schedule, *, version: int | None = None) -> None:
        """Delete a schedule. A job that is under way goes on. Raises ScheduleChanged."""
        self.store.delete(schedule, version=version)
        _LOG.info("schedule is deleted", schedule=schedule.definition.name, schedule_id=schedule.id)

    def run_now(self, name: str, *, ignores_brake: bool = False) -> Run:
        """Start a run now, whether the schedule is enabled or not. Raises ScheduleUnknown or RunUnfinished.

        If the last run goes on, ``overlap`` decides: ``skip`` refuses. Raises ScheduleBusy if others are always faster.
        """
        return self._claim_now(name, "manual", ignores_brake=ignores_brake)

    def preview(self, timetable: Timetable, anchor: datetime, count: int) -> list[datetime]:
        """Return the next slots, in the time zone of the timetable."""
        return slots.upcoming(timetable, self.now(), anchor, count)

    def require_possible(self, definition: ScheduleDefinition) -> None:
        """Raise InvalidInput or AddressNotAllowed for a job that could never run. ``where`` leads to its image."""
        request = read_job(definition)
        try:
            self.submitter.specs(request.images, request.options)
        except (InvalidInput, AddressNotAllowed) as error:
            place = self._refused_image(request)
            is_one = "images" not in definition.job
            error.where = ("job",) if place is None else ("job", "source") if is_one else ("job", "images", place)
            raise

    def _refused_image(self, request: JobRequest) -> int | None:
        """Return the place of the first image that is refused alone. None if all of them are refused together only."""
        for place, image in enumerate(request.images):
            try:
                self.submitter.specs([image], request.options)
            except (InvalidInput, AddressNotAllowed):
                return place
        return None

    def _timed(self, schedule: Schedule, now: datetime) -> Schedule:
        """Return the schedule with its next slot. One that is disabled has none."""
        if not schedule.definition.enabled:
            return replace(schedule, next_slot=None, next_run_at=None)
        slot, run_at = next_run(schedule, now)
        return replace(schedule, next_slot=slot, next_run_at=run_at)

    def _run_changed(self, schedule: Schedule) -> None:
        """Start a run because the job is new, after the run that is under way. One that waits already is enough."""
        try:
            self._claim_now(schedule.id, "changed")
        except RunUnfinished:
            _LOG.info("the run that waits has the new job", schedule=schedule.definition.name)

    def _claim_now(self, name: str, reason: RunReason, *, ignores_brake: bool = False) -> Run:
        for _ in range(_ATTEMPTS):
            schedule = self.store.schedule(name)
            place = _place_now(schedule, reason)
            run = new_run(schedule, self.now(), reason, place, ignores_brake=ignores_brake)
            if self.runs.claim(schedule, run, place, None):
                if place == "open":
                    self.starter.start(run, schedule.definition)
                return self.runs.run(run.id)
        raise ScheduleBusy(name)


def _place_now(schedule: Schedule, reason: RunReason) -> RunPlace:
    """Return where a run that has no slot goes. Raises RunUnfinished."""
    if schedule.open_run is None:
        return "open"
    overlap = "queue" if reason == "changed" else schedule.definition.overlap
    if overlap == "skip" or schedule.queued_run:
        raise RunUnfinished(schedule.definition.name, schedule.queued_run or schedule.open_run)
    return "queued" if overlap == "queue" else "replaces"

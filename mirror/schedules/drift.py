"""Drift reports: what a run of a schedule would change now.

A report is made of a plan, which workers make as for any other dry run, and of what is known of the schedule's targets.
The plan is no run of the schedule. Its listing counts in the report only: no report brings a deletion nearer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal, get_args

import structlog

from mirror.catalog.overwrite import MOVED
from mirror.errors import PlanUnknown
from mirror.locks.lease import Leases
from mirror.records.followed import DriftPlans, FollowedTag
from mirror.records.jobs import JobStore
from mirror.records.plans import Plan, PlanStore, plan_id_of
from mirror.records.run import Run
from mirror.records.schedule import Schedule
from mirror.records.schedule_schema import read_job
from mirror.redis import keys
from mirror.schedules.deletions import Deletions
from mirror.schedules.runs import Submitter
from mirror.schedules.upstream import Decision

DriftState = Literal["in_sync", "drifted", "unknown"]
DRIFT_STATES: Final[tuple[DriftState, ...]] = get_args(DriftState)
_START_SECONDS: Final = 30.0
_NOTHING: Final = Decision({}, {})
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Drift:
    """What a run would change.

    It would *copy* and *delete* so many tags. *moved* are those that it would only report, and *immutable* those whose
    move would be an error of theirs. *failed* images could not be looked at. *gone* are the targets that the source
    does not list, also those that are not due yet.
    """

    state: DriftState
    plan: str
    made_at: datetime | None
    copy: int
    moved: int
    immutable: int
    delete: int
    failed: int
    is_braked: bool
    gone: Mapping[str, FollowedTag]


@dataclass(frozen=True, slots=True)
class DriftReports:
    """Makes drift reports. *clock* is the clock of jobs. Safe to share between threads."""

    submitter: Submitter
    jobs: JobStore
    plans: PlanStore
    drift_plans: DriftPlans
    leases: Leases
    deletions: Deletions
    clock: Callable[[], datetime]

    def report(self, schedule: Schedule, max_age: timedelta) -> Drift | None:
        """Return a report that is at most *max_age* old. None while its plan is being made: ask again.

        Raises InvalidInput for a job that is refused by now, or RedisUnavailable.
        """
        plan = self._recent(schedule, max_age) or self._start(schedule, max_age)
        if plan is None or plan.state == "planning":
            return None
        decision = _NOTHING
        if schedule.definition.upstream.on_delete != "keep":
            decision = self.deletions.decide(_dry_run(schedule, plan), schedule)
        return _drift(plan, decision, self._moved(plan))

    def _start(self, schedule: Schedule, max_age: timedelta) -> Plan | None:
        """Start a plan, unless another process does or has. Return a plan that has ended meanwhile."""
        lease = self.leases.take(keys.drift_lease(schedule.id), _START_SECONDS)
        if lease is None:
            return None
        try:
            if plan := self._recent(schedule, max_age):
                return plan
            request = read_job(schedule.definition)
            job, _ = self.submitter.submit(request.images, replace(request.options, kind="plan"))
            self.drift_plans.write(schedule.id, schedule.version, plan_id_of(job.id))
        finally:
            self.leases.end(lease)
        _LOG.info("drift report is started", schedule=schedule.definition.name, plan_id=plan_id_of(job.id))
        return None

    def _recent(self, schedule: Schedule, max_age: timedelta) -> Plan | None:
        """Return the last plan for this version of the schedule, if it is being made or is young enough."""
        plan_id = self.drift_plans.read(schedule.id, schedule.version)
        try:
            plan = self.plans.read(plan_id) if plan_id else None
        except PlanUnknown:
            return None
        if plan is None or plan.state == "planning":
            return plan
        ended_at = plan.job.finished_at
        return plan if ended_at and self.clock() - ended_at <= max_age else None

    def _moved(self, plan: Plan) -> int:
        if not plan.totals.skip:
            return 0
        found = (text for _, text in self.jobs.task_fields(plan.job.id, "plan") if text)
        return sum(json.loads(text).get("code") == MOVED for text in found)


def _dry_run(schedule: Schedule, plan: Plan) -> Run:
    """Return the run that the plan stands for. It is stored nowhere."""
    run_id = f"run_{plan.job.id.partition('_')[2]}"
    return Run(run_id, schedule.id, "following", "manual", plan.job.created_at)


def _drift(plan: Plan, decision: Decision, moved: int) -> Drift:
    totals, failed = plan.totals, plan.job.images.failed
    changes = totals.copy + totals.drifted + moved + len(decision.due) + decision.braked
    is_unknown = plan.state in ("failed", "canceled") or (failed > 0 and not changes)
    return Drift(
        state="unknown" if is_unknown else "drifted" if changes else "in_sync",
        plan=plan.id,
        made_at=plan.job.finished_at,
        copy=totals.copy,
        moved=moved,
        immutable=totals.drifted,
        delete=len(decision.due),
        failed=failed,
        is_braked=decision.braked > 0,
        gone=decision.gone,
    )

"""Plan images: find out what copies would do, and what they would cost. Apply a plan. A plan writes no link or tag.

The manifests are read, because only they name the blobs. The resolver stores those of a registry with a pull limit in
the bucket, as it does for a copy. So a plan pays the quota, and the copy after it pays nothing. No repository links
these manifests, so no reader sees them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import structlog

from mirror.catalog.confirm import Confirmer
from mirror.copying.copier import Copier
from mirror.copying.resolver import Resolver
from mirror.errors import (
    InternalError,
    ManifestUnknown,
    MirrorError,
    PlanEmpty,
    PlanTooLarge,
    PlanUnfinished,
    TagDrifted,
)
from mirror.jobs.claim import ClaimedCopy
from mirror.oci.digest import Digest
from mirror.queue import TaskQueue
from mirror.records.claims import Outcome
from mirror.records.job import USUAL, Job, JobOptions
from mirror.records.jobs import JobStore
from mirror.records.plans import ImagePlan, Plan, PlanStore
from mirror.records.task import Task

MOST_APPLIED: Final = 50_000
"""Images of a plan that is applied. 10 000 take 3 s and 25 MB of the service."""
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ImagePlanner:
    """Plans the images of dry runs."""

    confirmer: Confirmer
    resolver: Resolver
    copier: Copier
    plans: PlanStore

    def plan(self, task: ClaimedCopy) -> Outcome:
        """Return what a copy of the task's image would do. Raises what `TaskSettler.attempt` settles."""
        record, reference = task.claim.task, task.spec.source
        _LOG.info("planning started", job_id=record.job, task_id=record.id, source=str(reference))
        try:
            found = self._plan(task)
        except TagDrifted as error:
            found = ImagePlan("drifted", error.message, error.code, digest=str(task.digest))
        return Outcome(plan=found.fields())

    def _plan(self, task: ClaimedCopy) -> ImagePlan:
        if skipped := self._left_alone(task, None):
            return skipped
        if not task.was_looked_up:
            task.look_up(self.resolver)
        hint = task.digest
        if hint is not None and (unchanged := self._unchanged(task, hint)):
            return unchanged
        try:
            return self._read(task, hint)
        except ManifestUnknown as error:
            if not error.is_child or task.spec.source.digest:
                raise
            _LOG.info("a part of the image is gone, the tag is read once more", reason=error.message)
            return self._read(task, None, incomplete=(task.digest, error))

    def _read(
        self, task: ClaimedCopy, hint: Digest | None, *, incomplete: tuple[Digest | None, MirrorError] | None = None
    ) -> ImagePlan:
        """Read the image and compare its blobs with the bucket. *incomplete* is as in `ImageCopier`."""
        reference, rules, cancellation = task.spec.source, task.spec.options.platforms, task.cancellation
        with self.copier.manifest_memory(reference, cancellation) as memory:
            with self.resolver.resolving(reference, hint, cancellation, memory) as resolution:
                task.digest = digest = resolution.root.descriptor.digest
                if incomplete and incomplete[0] == digest:
                    raise incomplete[1]
                if reason := resolution.skip_reason(rules):
                    return ImagePlan("skip", f"{reason}.", "platform_not_wanted", digest=str(digest))
                was_checked = digest == hint and not (task.held and task.held.made_from == digest)
                settled = None if was_checked else self._unchanged(task, digest, served=True)
                if settled := settled or self._left_alone(task, digest):
                    return settled
                image, reads = resolution.image(rules), resolution.reads
            survey = self.copier.survey(reference, image, task.spec.options.foreign_layers, cancellation)
            missing = [
                (blob, 0 if blob.digest in survey.from_urls else self.copier.requests(blob))
                for blob in survey.plan.to_copy
            ]
            self.plans.count_blobs(task.claim, missing, survey.plan.held)
        return ImagePlan(
            "copy",
            _reason(task),
            digest=str(digest),
            result_digest=str(image.digest),
            bytes_to_copy=sum(blob.size for blob in survey.plan.to_copy),
            bytes_held=sum(blob.size for blob in survey.plan.held),
            own_requests=reads.manifests - reads.kept + reads.configs + survey.foreign,
            blob_requests=sum(requests for _, requests in missing),
            pull_quota=reads.counted,
        )

    def _unchanged(self, task: ClaimedCopy, found: Digest, *, served: bool = False) -> ImagePlan | None:
        """Return the plan of an image that the target shows already, None for any other."""
        if task.spec.options.overwrite == "always":
            return None
        shown = self.confirmer.shown(found, task.spec, served=served)
        if shown is None:
            return None
        reason = "The target shows this image already."
        return ImagePlan("unchanged", reason, digest=str(found), result_digest=str(shown))

    def _left_alone(self, task: ClaimedCopy, found: Digest | None) -> ImagePlan | None:
        """Return the plan of an image whose target stays as it is, None for any other. Raises TagDrifted."""
        update = self.confirmer.left_alone(task.change, task.spec, found)
        if update is None or update.skipped is None:
            return None
        digest = None if found is None else str(found)
        return ImagePlan("skip", f"{update.skipped.message}.", update.skipped.reason, digest=digest)


def _reason(task: ClaimedCopy) -> str:
    if task.held is None:
        return "The mirror has no such target yet."
    return f"The target shows {task.held.digest}."


def apply_plan(
    plans: PlanStore, jobs: JobStore, queue: TaskQueue, plan_id: str, options: JobOptions = USUAL
) -> tuple[Job, list[Task]]:
    """Queue a job that copies exactly what a plan has found, also where tags have moved since.

    Images that were unchanged are part of it, because their tags may have moved in the mirror. Return the job and its
    tasks as they were stored.

    Raises PlanUnknown, PlanUnfinished, PlanEmpty, PlanTooLarge or RedisUnavailable.
    """
    plan = _ready_plan(plans, plan_id)
    planned = plan.totals.copy + plan.totals.unchanged
    if planned > MOST_APPLIED:
        raise PlanTooLarge(plan_id, planned, MOST_APPLIED)
    specs = [replace(spec, is_staged=options.atomic) for spec in plans.pinned(plan)]
    if len(specs) != planned:
        _ready_plan(plans, plan_id)  # it may have expired meanwhile, or be retried
        raise InternalError
    if not specs:
        raise PlanEmpty(plan_id)
    job, tasks, entries = jobs.submit(specs, options)
    queue.enqueue(entries)
    _LOG.info("plan is applied", plan_id=plan.id, job_id=job.id, images=len(specs))
    return job, tasks


def _ready_plan(plans: PlanStore, plan_id: str) -> Plan:
    plan = plans.read(plan_id)
    if not plan.is_ready:
        raise PlanUnfinished(plan_id, plan.state)
    return plan

"""The documents of plans and of their images, as responses show them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from mirror.records.plans import ImagePlan, Plan
from mirror.records.spec import CopySpec, ExpandSpec
from mirror.records.states import RETRYABLE, UNFINISHED
from mirror.records.task import Task
from service.api.jobs.waiting import shown_wait
from service.core import core
from service.http.pagination import public_url

INLINE_IMAGES: Final = 20
_UNPLANNED: Final = {
    **dict.fromkeys(("action", "reason", "code", "digest", "result_digest")),
    **dict.fromkeys(("bytes_to_copy", "bytes_held", "requests", "pull_quota"), 0),
}


def plan_document(plan: Plan, *, images: int = INLINE_IMAGES) -> dict[str, Any]:
    """Return a plan with its first *images*."""
    tasks = core().plans.images(plan, limit=images)[0] if images else []
    job, totals = plan.job, plan.totals
    counts = {"images": job.images.total, "failed": job.images.failed}
    return {
        "id": plan.id,
        "state": plan.state,
        "request": job.spec.shown() if job.spec else None,
        "totals": {**asdict(totals), **counts, "requests": totals.requests, "exact": not totals.is_bound},
        "waiting_for": shown_wait(job),
        "created_at": job.created_at,
        "expires_at": plan.expires_at,
        "images": [image_document(task) for task in tasks],
        "links": _links(plan),
    }


def image_document(task: Task) -> dict[str, Any]:
    """Return what is to be done for the image of *task*."""
    spec, found = task.spec, ImagePlan.of(task)
    named = {
        "source": str(spec.source) if isinstance(spec, CopySpec | ExpandSpec) else None,
        "target": str(spec.target) if isinstance(spec, CopySpec) else None,
        "chosen_by": spec.chosen_by if isinstance(spec, CopySpec) else None,
    }
    return {**named, **(_UNPLANNED if found is None else {**asdict(found), "requests": found.requests})}


def _links(plan: Plan) -> dict[str, str]:
    job_id, state = plan.job.id, plan.job.state
    steps = {"cancel": state in UNFINISHED, "retry": state in RETRYABLE}
    allowed = {step: public_url(f"jobs.{step}_job", job_id=job_id) for step, is_allowed in steps.items() if is_allowed}
    own = {
        "self": public_url("plans.read_plan", plan_id=plan.id),
        "images": public_url("plans.list_planned_images", plan_id=plan.id),
        "job": public_url("jobs.read_job", job_id=job_id),
    }
    return {**own, **allowed}

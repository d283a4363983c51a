"""The documents of jobs and of their tasks, as responses show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from mirror.records.job import Job
from mirror.records.plans import plan_id_of
from mirror.records.spec import CopySpec, ExpandSpec, TaskSpec
from mirror.records.states import RETRYABLE, UNFINISHED
from mirror.records.task import BLOB_STATES, BlobReport, Expansion, Task
from service.api.jobs.waiting import shown_wait
from service.core import core
from service.http.pagination import public_url

INLINE_TASKS: Final = 20
_NEW_DIGEST: Final[Mapping[str, str]] = {
    "rewrite": "The platforms mode 'rewrite' makes a new index, which no signature of the index at the source covers. "
    "Signatures of single platforms stay valid.",
    "single": "The platforms mode 'single' keeps one platform. Signatures of the index at the source are not mirrored. "
    "Signatures of that platform stay valid.",
}


def job_summary(job: Job) -> dict[str, Any]:
    """Return a job without its tasks, as a list shows it."""
    request = job.spec.shown() if job.spec else None
    own: dict[str, Any] = {"request": request, "waiting_for": shown_wait(job), "links": _job_links(job)}
    own["warnings"] = _warnings(job.spec)
    return {**asdict(job), **asdict(job.options), **_names(job.spec), **_digests(job), **own}


def _digests(record: Job | Task) -> dict[str, Any]:
    """Return what the source has, and whether the target shows the same. None where that is not known."""
    was_left_alone = record.skipped is not None if isinstance(record, Task) else record.images.skipped > 0
    if was_left_alone or record.superseded_by:
        return {"source_digest": record.source_digest, "digest_preserved": None}
    is_preserved = record.source_digest in (None, record.digest)
    is_shown = record.state == "succeeded" and record.digest is not None
    return {
        "source_digest": record.source_digest or record.digest,
        "digest_preserved": is_preserved if is_shown else None,
    }


def _names(spec: TaskSpec | None) -> dict[str, str | None]:
    source = str(spec.source) if isinstance(spec, CopySpec | ExpandSpec) else None
    return {"source": source, "target": str(spec.target) if isinstance(spec, CopySpec) else None}


def _warnings(spec: TaskSpec | None) -> list[dict[str, str]]:
    """Return what a caller may not expect of a request: signatures of an index say nothing of another one."""
    if not isinstance(spec, CopySpec | ExpandSpec) or spec.options.platforms.mode not in _NEW_DIGEST:
        return []
    return [{"code": "SIGNATURES_LOST", "message": _NEW_DIGEST[spec.options.platforms.mode]}]


def _job_links(job: Job) -> dict[str, str]:
    """Return the URLs of the job and of what its state allows."""
    steps = {"cancel": job.state in UNFINISHED, "retry": job.state in RETRYABLE}
    allowed = {step: public_url(f"jobs.{step}_job", job_id=job.id) for step, is_allowed in steps.items() if is_allowed}
    own = {"self": public_url("jobs.read_job", job_id=job.id), "tasks": public_url("jobs.list_tasks", job_id=job.id)}
    if job.options.kind == "plan":
        own["plan"] = public_url("plans.read_plan", plan_id=plan_id_of(job.id))
    if job.run:
        own["schedule"] = public_url("schedules.read_schedule", name=job.run.schedule)
        own["run"] = public_url("schedules.read_run", name=job.run.schedule, run_id=job.run.run)
    return {**own, **allowed}


def job_document(job: Job) -> dict[str, Any]:
    """Return a job with its first tasks."""
    return {**job_summary(job), "tasks": task_documents(core().jobs.tasks(job.id, INLINE_TASKS))}


def task_documents(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    blobs = core().jobs.blobs_of([task.id for task in tasks])
    return [task_document(*found) for found in zip(tasks, blobs, strict=True)]


def task_document(task: Task, blobs: Sequence[BlobReport]) -> dict[str, Any]:
    counts = None if task.blob_counts is None else {state: task.blob_counts.get(state, 0) for state in BLOB_STATES}
    links = {"blobs": public_url("jobs.list_blobs", job_id=task.job, task_id=task.id)}
    if task.expansion.parts:
        links["tags"] = public_url("jobs.list_tags", job_id=task.job, task_id=task.id)
    return {
        **asdict(task),
        **_names(task.spec),
        **_digests(task),
        "kind": task.spec.kind,
        "request": task.spec.shown(),
        "selection": _selection(task.expansion),
        "waiting_for": shown_wait(task),
        "foreign_layers": task.foreign_layers,
        "warnings": _warnings(task.spec),
        "blobs": blobs,
        "blob_counts": None if counts is None else {"total": sum(counts.values()), **counts},
        "links": links,
    }


def _selection(expansion: Expansion) -> dict[str, Any] | None:
    """Return what an expansion has found. None until its source was listed, and for other tasks."""
    if expansion.selection is None:
        return None
    counts = {"added": expansion.tasks, "unchanged": expansion.unchanged, "skipped": expansion.skipped}
    return {"order": None, **expansion.selection, **counts}

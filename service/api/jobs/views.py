"""``/v1/jobs``: queue, read, list, cancel, retry and delete jobs."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Final

from flask import Response, jsonify

from mirror.jobs import cancel, retry
from mirror.jobs.plan import apply_plan
from mirror.oci.reference import Reference, RepositoryPattern
from mirror.records.job import Job
from mirror.records.job_request import JobRequest, JobRequestSchema
from mirror.records.plans import plan_id_of
from service.api.jobs.document import INLINE_TASKS, job_document, job_summary, task_document, task_documents
from service.api.jobs.schema import JobPageSchema, JobPostQuery, JobQuery, JobSchema
from service.api.jobs.task_schema import BlobPageSchema, BlobQuery, ChoicePageSchema, ChoiceQuery, TaskPageSchema
from service.api.plans.document import plan_document
from service.api.plans.schema import PlanSchema
from service.core import core
from service.http.blueprint import api_blueprint, header, refuses
from service.http.pagination import NoParameters, PageQuery, next_page
from service.http.problems import FieldProblem, RequestInvalid

JOBS: Final = api_blueprint("jobs", "Copy images from registries into the mirror, and watch them.")
_LOOK_AGAIN: Final = "2"
"""Seconds after which a client should read a job that was just changed."""
_LOCATION: Final = header(
    "Where to watch the job or the plan.", "http://127.0.0.1:8080/v1/jobs/job_01JDB2V3R8Y0N5Q7T9W1X3Z5B7"
)
_RETRY_AFTER: Final = header("Seconds after which to read the job.", _LOOK_AGAIN)
_ACCEPTED: Final = {
    "description": "The job is stored. It is done even if a process dies. With `dry_run=true` a plan is returned.",
    "headers": {"Location": _LOCATION, "Retry-After": _RETRY_AFTER},
    "content": {"application/json": {"schema": {"oneOf": [JobSchema, PlanSchema]}}},
}


@JOBS.post("/v1/jobs")
@JOBS.arguments(JobPostQuery, location="query")
@JOBS.arguments(JobRequestSchema)
@JOBS.response(202, JobSchema)
@JOBS.doc(responses={"202": _ACCEPTED})
@refuses(JOBS, 400, 401, 404, 409, 413, 415, 422, 503)
def create_job(query: dict[str, Any], request: JobRequest) -> Response | tuple[dict[str, Any], dict[str, str]]:
    """Queue a mirror job.

    One image is named by `source` and `target`, up to ten thousand by `images`. All of them are accepted or none. Names
    are checked at once, without any network access: what can never work is refused here. What the registry says is
    shown by the job.

    With `dry_run=true` the answer is a plan, which workers make. With `plan` the job copies exactly what a plan has
    found, also where tags have moved since.
    """
    if request.plan is not None:
        if query["dry_run"]:
            raise RequestInvalid([FieldProblem("Not with 'dry_run=true': the plan is made already.", pointer="/plan")])
        job, tasks = apply_plan(core().plans, core().jobs, core().queue, request.plan, request.options)
    elif query["dry_run"]:
        job, _ = core().submitter.submit(request.images, replace(request.options, kind="plan"))
        return _accepted_plan(job)
    else:
        job, tasks = core().submitter.submit(request.images, request.options)
    document = {**job_summary(job), "tasks": [task_document(task, []) for task in tasks[:INLINE_TASKS]]}
    return document, {"Location": document["links"]["self"], "Retry-After": _LOOK_AGAIN}


def _accepted_plan(job: Job) -> Response:
    """Return the plan that *job* makes. Its schema is not the one of the view."""
    document = plan_document(core().plans.read(plan_id_of(job.id)))
    response = jsonify(PlanSchema().dump(document))
    response.status_code = 202
    response.headers.update({"Location": document["links"]["self"], "Retry-After": _LOOK_AGAIN})
    return response


@JOBS.get("/v1/jobs")
@JOBS.arguments(JobQuery, location="query")
@JOBS.response(200, JobPageSchema, headers={"Link": header("The next page, RFC 8288.", '<…>; rel="next"')})
@refuses(JOBS, 401, 422, 503)
def list_jobs(query: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """List jobs, the newest first."""
    state, limit = query["state"], query["limit"]
    source = None if query["source"] is None else str(Reference.parse(query["source"]))
    if query["repository"] is not None:
        source = str(RepositoryPattern.parse(query["repository"]))
    found, following = core().jobs.page(limit=limit, before=query["cursor"], state=state, source=source)
    page = {"items": [job_summary(job) for job in found], "next": following}
    own = {name: query[name] for name in ("state", "source", "repository")}
    return page, next_page("jobs.list_jobs", **own, limit=limit, after=following)


@JOBS.get("/v1/jobs/<job_id>")
@JOBS.response(200, JobSchema)
@refuses(JOBS, 401, 404, 503)
def read_job(job_id: str) -> dict[str, Any]:
    """Read one job, with the progress of its blobs."""
    return job_document(core().jobs.job(job_id))


@JOBS.delete("/v1/jobs/<job_id>")
@JOBS.arguments(NoParameters, location="query")
@JOBS.response(204, description="The job and its tasks are gone. The images that it mirrored stay.")
@refuses(JOBS, 401, 404, 409, 422, 503)
def delete_job(_: dict[str, Any], job_id: str) -> Response:
    """Delete a job that has ended.

    A job that has not ended is refused (409): cancel it first. Jobs that ended are also deleted after
    `MIRROR_JOB_RETENTION`.
    """
    core().jobs.delete(job_id)
    return Response(status=204)


@JOBS.get("/v1/jobs/<job_id>/tasks")
@JOBS.arguments(PageQuery, location="query")
@JOBS.response(200, TaskPageSchema, headers={"Link": header("The next page, RFC 8288.", '<…>; rel="next"')})
@refuses(JOBS, 401, 404, 422, 503)
def list_tasks(query: dict[str, Any], job_id: str) -> tuple[dict[str, Any], dict[str, str]]:
    """List a job's tasks.

    There is one for each image, in the order of the request, with the progress of its blobs.
    """
    jobs, limit = core().jobs, query["limit"]
    job = jobs.job(job_id)
    found = jobs.tasks(job.id, limit + 1, after=query["cursor"])
    following = found[limit - 1].id if len(found) > limit else None
    page = {"items": task_documents(found[:limit]), "next": following}
    return page, next_page("jobs.list_tasks", job_id=job.id, limit=limit, after=following)


@JOBS.get("/v1/jobs/<job_id>/tasks/<task_id>/blobs")
@JOBS.arguments(BlobQuery, location="query")
@JOBS.response(200, BlobPageSchema, headers={"Link": header("The next page, RFC 8288.", '<…>; rel="next"')})
@refuses(JOBS, 401, 404, 422, 503)
def list_blobs(query: dict[str, Any], job_id: str, task_id: str) -> tuple[dict[str, Any], dict[str, str]]:
    """List the blobs of a task.

    They come in the order in which they are copied. Blobs that were held already or are left out come last. Of an
    image with more than a thousand blobs, the first thousand are listed.
    """
    limit, after = query["limit"], query["cursor"]
    found, last = core().jobs.blobs(job_id, task_id, limit=limit, after=None if after is None else int(after))
    following = None if last is None else str(last)
    page = {"items": found, "next": following}
    return page, next_page("jobs.list_blobs", job_id=job_id, task_id=task_id, limit=limit, after=following)


@JOBS.get("/v1/jobs/<job_id>/tasks/<task_id>/tags")
@JOBS.arguments(ChoiceQuery, location="query")
@JOBS.response(200, ChoicePageSchema, headers={"Link": header("The next page, RFC 8288.", '<…>; rel="next"')})
@refuses(JOBS, 401, 404, 422, 503)
def list_tags(query: dict[str, Any], job_id: str, task_id: str) -> tuple[dict[str, Any], dict[str, str]]:
    """List what an expansion has found at its source.

    Each tag is selected, or names the rule that dropped it. The list is there once the source was listed completely.
    """
    limit, selected = query["limit"], query["selected"]
    after = None if query["cursor"] is None else int(query["cursor"])
    found, last = core().selections.choices(job_id, task_id, limit=limit, after=after, selected=selected)
    following = None if last is None else str(last)
    items = [{**asdict(choice), "selected": choice.rule is None} for choice in found]
    own = {"job_id": job_id, "task_id": task_id, "selected": selected}
    return {"items": items, "next": following}, next_page("jobs.list_tags", **own, limit=limit, after=following)


@JOBS.post("/v1/jobs/<job_id>/cancel")
@JOBS.arguments(NoParameters, location="query")
@JOBS.response(
    202,
    JobSchema,
    description="Images that waited are `canceled`. Copies that run are stopped within seconds; then the job ends.",
    headers={"Retry-After": _RETRY_AFTER},
)
@refuses(JOBS, 401, 404, 409, 422, 503)
def cancel_job(_: dict[str, Any], job_id: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Cancel a job.

    Copies stop in the middle of a blob, and no tag is moved any more. An image that is being published at that moment
    may still succeed. Canceling twice is the same as canceling once. A job that has ended otherwise is refused.
    """
    return job_document(cancel.cancel_job(core().jobs, job_id)), {"Retry-After": _LOOK_AGAIN}


@JOBS.post("/v1/jobs/<job_id>/retry")
@JOBS.arguments(NoParameters, location="query")
@JOBS.response(
    202,
    JobSchema,
    description="The images that failed or were canceled are queued again.",
    headers={"Location": _LOCATION, "Retry-After": _RETRY_AFTER},
)
@refuses(JOBS, 401, 404, 409, 422, 503)
def retry_job(_: dict[str, Any], job_id: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Retry a failed, partial or canceled job.

    It stays the same job and gets its next attempt. Images that succeeded are left alone, and blobs that were copied
    stay.
    """
    document = job_document(retry.retry_job(core().jobs, core().queue, job_id))
    return document, {"Location": document["links"]["self"], "Retry-After": _LOOK_AGAIN}

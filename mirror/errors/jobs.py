"""Errors about jobs and tasks, and about the workers that run them."""

from __future__ import annotations

from random import uniform

from mirror.errors.base import Conflict, MirrorError, NotHeld, Unavailable, quoted
from mirror.errors.input import InvalidInput


class JobUnknown(NotHeld):
    code = "JOB_UNKNOWN"
    hint = "GET /v1/jobs lists the jobs."

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {quoted(job_id)}")


class TaskUnknown(NotHeld):
    code = "TASK_UNKNOWN"
    hint = "GET /v1/jobs/{job_id}/tasks lists the tasks of a job."

    def __init__(self, job_id: str, task_id: str) -> None:
        super().__init__(f"The job {quoted(job_id)} has no task {quoted(task_id)}")


class JobFinished(Conflict):
    """A job that has ended cannot be canceled."""

    code = "JOB_FINISHED"
    hint = "To mirror its failed images again, POST to its /retry. To remove an image, DELETE its tag."

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"The job {quoted(job_id)} has finished: it is {state}")


class JobUnfinished(Conflict):
    """A job that has not ended cannot be retried."""

    code = "JOB_UNFINISHED"
    hint = "Wait until it ends, or cancel it first. A canceled job takes some seconds to stop."

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"The job {quoted(job_id)} has not finished: it is {state}")


class JobSucceeded(Conflict):
    """A job without a failed image cannot be retried."""

    code = "JOB_SUCCEEDED"
    hint = "To check the source for something newer, POST a new job."

    def __init__(self, job_id: str) -> None:
        super().__init__(f"All images of the job {quoted(job_id)} have succeeded")


class PlanUnknown(NotHeld):
    code = "PLAN_UNKNOWN"
    hint = "A plan is kept for a day after it was made. Make a new one: POST /v1/jobs?dry_run=true."

    def __init__(self, plan_id: str) -> None:
        super().__init__(f"There is no plan {quoted(plan_id)}, or it has expired")


class PlanUnfinished(Conflict):
    """A plan that is being made, was canceled or has failed cannot be applied."""

    code = "PLAN_UNFINISHED"
    hint = (
        "Wait until its state is 'ready'. A plan that failed or was canceled can be retried: POST to its links.retry."
    )

    def __init__(self, plan_id: str, state: str) -> None:
        super().__init__(f"The plan {quoted(plan_id)} cannot be applied: it is {state}")


class PlanEmpty(Conflict):
    """A plan without an image to copy cannot be applied."""

    code = "PLAN_EMPTY"
    hint = "Its images say why nothing is to be done: GET /v1/plans/{plan_id}/images."

    def __init__(self, plan_id: str) -> None:
        super().__init__(f"The plan {quoted(plan_id)} has nothing to apply: all of its images are skipped or drifted")


class PlanTooLarge(Conflict):
    """A plan with so many images takes too long to apply in one request."""

    code = "PLAN_TOO_LARGE"
    hint = "Make plans of fewer tags or repositories. Or POST the request of the plan again, without dry_run."

    def __init__(self, plan_id: str, images: int, limit: int) -> None:
        super().__init__(f"The plan {quoted(plan_id)} has {images} images to apply, but a job takes {limit} of a plan")


class ReleaseTooLarge(InvalidInput):
    """An atomic job has more tags than can move together."""

    code = "RELEASE_TOO_LARGE"
    hint = "Split the job, or mirror without 'atomic'."

    def __init__(self, tags: int, limit: int) -> None:
        super().__init__(f"The atomic job has {tags} tags, and at most {limit} can move together")


class ReleaseSuperseded(Conflict):
    """A later change of one of its tags came before the release of an atomic job. So none of its tags moves."""

    code = "RELEASE_SUPERSEDED"
    hint = "Another job or request changed the tag after this job had read its source. Submit the job again."

    def __init__(self, image: str, by: str) -> None:
        super().__init__(f"The tag '{image}' was changed by {quoted(by)} after this job had read its source")


class ReleaseIncomplete(Conflict):
    """The bucket has lost a part of an image since it was copied. So none of the tags of its job moves."""

    code = "RELEASE_INCOMPLETE"
    hint = "Something deleted it from the bucket since this job copied it. Submit the job again."

    def __init__(self, image: str, digest: str) -> None:
        super().__init__(f"The bucket no longer holds {digest}, which the image '{image}' needs")


class ReleaseBusy(Conflict):
    """Another worker is moving the tags of the job, or has died while it did."""

    code, retryable = "RELEASE_BUSY", True
    waits_for = "release_busy"
    http_retry_after = 2
    hint = "The job continues by itself within half a minute."

    def __init__(self, job: str) -> None:
        super().__init__(f"Another worker holds the release of the job {quoted(job)}")


class MemoryBusy(Unavailable):
    """The worker's memory has no room for the image's manifests, because other images' manifests use it."""

    code = "MEMORY_BUSY"
    waits_for = "memory"
    hint = "The job continues when other images are complete. MIRROR_MEMORY_BUDGET sets the memory of a worker."

    def __init__(self, what: str) -> None:
        message = f"The manifests of {what} do not fit into the worker's memory next to those of other images"
        super().__init__(message, retry_after=uniform(5, 15))  # noqa: S311 - spreads the attempts, protects nothing


class WorkerLost(MirrorError):
    """The lease of the task expired several times in a row without progress."""

    code, retryable = "WORKER_LOST", True
    hint = "Check the workers' logs (out of memory, killed by the host). Then POST to the job's /retry."

    def __init__(self, task: str, losses: int) -> None:
        super().__init__(f"The worker of task {task} was lost {losses} times in a row without progress")

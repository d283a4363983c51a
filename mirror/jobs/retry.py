"""Retry a job that has ended."""

from __future__ import annotations

import structlog

from mirror.queue import TaskQueue
from mirror.records.job import Job
from mirror.records.jobs import JobStore

_LOG = structlog.get_logger(__name__)


def retry_job(jobs: JobStore, queue: TaskQueue, job_id: str) -> Job:
    """Queue the job's failed and canceled images again, and leave the others alone.

    Return the job after that.

    Raises JobUnknown, JobUnfinished, JobSucceeded or RedisUnavailable.
    """
    queue.enqueue(jobs.retry(job_id))
    job = jobs.job(job_id)
    _LOG.info("job is retried", job_id=job_id, attempt=job.attempt)
    return job

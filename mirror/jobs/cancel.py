"""Cancel a job that was accepted."""

from __future__ import annotations

import structlog

from mirror.records.job import Job
from mirror.records.jobs import JobStore

_LOG = structlog.get_logger(__name__)


def cancel_job(jobs: JobStore, job_id: str) -> Job:
    """End what waits, and tell the workers to stop the rest, which takes them seconds.

    Return the job after that.

    The queue entries of canceled tasks stay. A worker that takes one finds that it is stale. Raises JobUnknown,
    JobFinished or RedisUnavailable.
    """
    jobs.cancel(job_id)
    job = jobs.job(job_id)
    _LOG.info("job is canceled", job_id=job_id, state=job.state)
    return job

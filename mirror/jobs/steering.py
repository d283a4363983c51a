"""What a user may do to a job that was accepted: cancel it, and have what did not succeed done again."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from mirror.jobs.waking import wake_workers
from mirror.queue import TaskQueue
from mirror.records.job import Job
from mirror.records.store import JobStore

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Steering:
    """Each request is stored before it is answered; workers and scheduler carry it out, whatever dies next."""

    store: JobStore
    queue: TaskQueue

    def cancel(self, job_id: str) -> Job:
        """End the job: what waits has ended, what runs is told to stop, and does within seconds.

        The queue entries of canceled tasks stay, and are found to be stale by whoever takes them. Raises JobUnknown,
        JobFinished, or RedisUnavailable.
        """
        self.store.cancel(job_id)
        job = self.store.job(job_id)
        _LOG.info("job is canceled", job_id=job_id, state=job.state)
        return job

    def retry(self, job_id: str) -> Job:
        """Queue the job's failed and canceled images again; those that succeeded are left alone.

        Raises JobUnknown, JobUnfinished, JobSucceeded, or RedisUnavailable.
        """
        wake_workers(self.queue, job_id, self.store.retry(job_id))
        job = self.store.job(job_id)
        _LOG.info("job is retried", job_id=job_id, attempt=job.attempt)
        return job

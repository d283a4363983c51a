"""What a user may do to a job that was accepted: cancel it, and have what did not succeed done again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from mirror.errors import RedisUnavailable
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
        self._wake_workers(job_id, self.store.retry(job_id))
        job = self.store.job(job_id)
        _LOG.info("job is retried", job_id=job_id, attempt=job.attempt)
        return job

    def _wake_workers(self, job_id: str, tasks: Sequence[tuple[str, int]]) -> None:
        """Put the tasks' entries; where that fails the retry is accepted all the same, and the reconciler puts them."""
        try:
            self.queue.put_all(tasks)
        except RedisUnavailable:
            _LOG.warning("job retried without queue entries; the scheduler will put them", job_id=job_id)

"""Finding tasks that nobody works on: their worker died, their queue entry was lost, or their wait is over.

One reconciler works at a time, by lease; two would only put a queue entry twice, and the claim takes one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from mirror.coordination.redis import Redis
from mirror.errors import WorkerLost
from mirror.queue import TaskQueue
from mirror.records.store import LEASE_SECONDS, LOSSES_ALLOWED, JobStore
from mirror.records.task import ErrorReport

ENTRY_SECONDS: Final = 10
"""How long a queued task may be without an entry: between the record and its entry, or between dequeue and claim."""
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Compares the records with the queue and with the leases."""

    store: JobStore
    queue: TaskQueue
    redis: Redis

    def reconcile(self) -> None:
        """One pass; raises RedisUnavailable."""
        self._requeue_lost()
        self._unpark_due()
        self._restore_entries()

    def _requeue_lost(self) -> None:
        """Take tasks from workers that were silent for a whole lease.

        After a restart of Redis, or an outage that this process met too, every worker has one lease's length to renew:
        it was Redis that was silent.
        """
        if min(self.redis.uptime(), self.redis.seconds_since_failure()) < LEASE_SECONDS:
            return
        for task_id in self.store.expired():
            error = ErrorReport.of(WorkerLost(task_id, LOSSES_ALLOWED))
            fence = self.store.expire(task_id, error)
            if fence is not None:
                self.queue.put(task_id, fence)
                _LOG.warning("task lost its worker and is queued again", task_id=task_id)
            elif (task := self.store.task(task_id)) and task.error == error:
                _LOG.warning("task failed", job_id=task.job, task_id=task_id, code=error.code, reason=error.message)

    def _unpark_due(self) -> None:
        for task_id in self.store.due():
            fence = self.store.unpark(task_id)
            if fence is not None:
                self.queue.put(task_id, fence)

    def _restore_entries(self) -> None:
        for task in self.store.queued_since(ENTRY_SECONDS):
            if task.state == "queued" and not self.queue.holds(task.id, task.fence):
                self.queue.put(task.id, task.fence)
                self.store.touch_queued(task.id)
                _LOG.warning("task had no queue entry and got a new one", task_id=task.id)

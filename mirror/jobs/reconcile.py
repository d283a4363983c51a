"""Find what a process that died has left undone, and do it.

These are tasks whose worker died, whose queue entry was lost or whose wait is over, requests that were begun, and jobs
whose retention is over. One reconciler works at a time, by lease. Two would only add a queue entry twice, and the
claim takes one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from mirror.background import record_fault
from mirror.errors import RedisUnavailable, WorkerLost
from mirror.queue import TaskQueue
from mirror.records.claims import LEASE_SECONDS
from mirror.records.jobs import Entry, JobStore
from mirror.records.queued import QueuedTasks
from mirror.records.recovery import RecoveryStore
from mirror.records.states import LOSSES_ALLOWED
from mirror.records.task import ErrorReport
from mirror.redis.client import Redis

ENTRY_SECONDS: Final = 10
"""How long a queued task may be without an entry: between the record and its entry, or between dequeue and claim."""
FAULTY_SECONDS: Final = 300
"""How long a job or task whose record cannot be used waits until it is looked at again."""
_STEPS: Final = 50
"""Steps of one request that one pass takes at most: more than any job needs, about half a second."""
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Compares the records with the queue and with the leases."""

    recovery: RecoveryStore
    queued: QueuedTasks
    jobs: JobStore
    queue: TaskQueue
    redis: Redis

    def reconcile(self) -> None:
        """Make one pass. Raises RedisUnavailable."""
        self._requeue_lost()
        self._restore_entries()
        self._each(self.recovery.unfinished_requests(), self._continue_request)
        self._each(self.recovery.ended(), self._remove)
        self._each(self.recovery.leftovers(), self.recovery.delete_tasks)

    def unpark(self) -> None:
        """Queue the tasks whose wait is over. Raises RedisUnavailable."""
        self._each(self.recovery.due(), self._unpark)

    def _requeue_lost(self) -> None:
        """Take tasks from workers that were silent for a whole lease.

        After Redis was away, every worker has one lease's length to renew: the silence was that of Redis. That holds
        after a restart of Redis and after an outage that this process noticed.
        """
        if min(self.redis.uptime(), self.redis.seconds_since_failure()) < LEASE_SECONDS:
            return
        self._each(self.recovery.expired(), self._requeue)

    def _requeue(self, task_id: str) -> None:
        entries = self.recovery.expire(task_id, ErrorReport.of(WorkerLost(task_id, LOSSES_ALLOWED)))
        if self._enqueue(task_id, entries):
            _LOG.warning("task lost its worker and is queued again", task_id=task_id)

    def _unpark(self, task_id: str) -> None:
        self._enqueue(task_id, self.recovery.unpark(task_id))

    def _enqueue(self, task_id: str, entries: Sequence[Entry]) -> bool:
        """Add queue entries.

        Return whether the task itself has one, and log its failure if it has failed instead.
        """
        if entries:
            self.queue.enqueue(entries)
        if any(queued == task_id for queued, *_ in entries):
            return True
        task = self.jobs.task(task_id)
        if task and task.state == "failed" and task.error:
            facts = {"code": task.error.code, "reason": task.error.message, "hint": task.error.hint}
            _LOG.warning("task failed", job_id=task.job, task_id=task_id, source=str(task.spec.source), **facts)
        return False

    def _restore_entries(self) -> None:
        looked_at: list[str] = []

        def restore(task_id: str) -> None:
            task = self.jobs.task(task_id)
            if task and task.state == "queued":
                if not self.queue.holds(task.id, task.fence):
                    self.queue.enqueue(self.queued.entry(task.id))
                    _LOG.warning("task had no queue entry and got a new one", task_id=task.id)
                looked_at.append(task_id)

        self._each(self.recovery.queued_since(ENTRY_SECONDS), restore)
        self.recovery.note_queued(looked_at)

    def _each(self, ids: Iterable[str], work: Callable[[str], object]) -> None:
        """Do *work* for every job or task.

        One whose record cannot be used delays none of the others.
        """
        for each in ids:
            try:
                work(each)
            except RedisUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - see above
                record_fault("reconciling", error, id=each)
                self.recovery.postpone(each, FAULTY_SECONDS)

    def _continue_request(self, job_id: str) -> None:
        for _ in range(_STEPS):
            more, entries = self.recovery.continue_request(job_id)
            if entries:
                self.queue.enqueue(entries)
            if not more:
                break

    def _remove(self, job_id: str) -> None:
        self.recovery.remove(job_id)
        _LOG.info("job is removed", job_id=job_id)

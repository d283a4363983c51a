"""Finding tasks that nobody works on: their worker died, their queue entry was lost, or their wait is over.

Jobs that ended longer ago than their retention are forgotten here too.

One reconciler works at a time, by lease; two would only put a queue entry twice, and the claim takes one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import structlog

from mirror.errors import RedisUnavailable, WorkerLost
from mirror.queue import TaskQueue
from mirror.records.store import LEASE_SECONDS, LOSSES_ALLOWED, JobStore
from mirror.records.task import ErrorReport
from mirror.redis.client import Redis
from mirror.threads import note_fault

ENTRY_SECONDS: Final = 10
"""How long a queued task may be without an entry: between the record and its entry, or between dequeue and claim."""
FAULTY_SECONDS: Final = 300
"""How long a task whose record cannot be used waits for another look."""
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
        self._each(self.store.due(), self._unpark)
        self._each(self.store.queued_since(ENTRY_SECONDS), self._restore_entry)
        self._forget()

    def _requeue_lost(self) -> None:
        """Take tasks from workers that were silent for a whole lease.

        After a restart of Redis, or an outage that this process met too, every worker has one lease's length to renew:
        it was Redis that was silent.
        """
        if min(self.redis.uptime(), self.redis.seconds_since_failure()) < LEASE_SECONDS:
            return
        self._each(self.store.expired(), self._requeue)

    def _requeue(self, task_id: str) -> None:
        error = ErrorReport.of(WorkerLost(task_id, LOSSES_ALLOWED))
        fence = self.store.expire(task_id, error)
        if fence is not None:
            self.queue.put(task_id, fence)
            _LOG.warning("task lost its worker and is queued again", task_id=task_id)
        else:
            self._note_failure(task_id)

    def _unpark(self, task_id: str) -> None:
        fence = self.store.unpark(task_id)
        if fence is not None:
            self.queue.put(task_id, fence)
        else:
            self._note_failure(task_id)

    def _note_failure(self, task_id: str) -> None:
        task = self.store.task(task_id)
        if task and task.state == "failed" and task.error:
            facts = {"code": task.error.code, "reason": task.error.message, "hint": task.error.hint}
            _LOG.warning("task failed", job_id=task.job, task_id=task_id, source=str(task.spec.source), **facts)

    def _restore_entry(self, task_id: str) -> None:
        task = self.store.task(task_id)
        if task and task.state == "queued" and not self.queue.holds(task.id, task.fence):
            self.queue.put(task.id, task.fence)
            self.store.touch_queued(task.id)
            _LOG.warning("task had no queue entry and got a new one", task_id=task.id)

    def _each(self, task_ids: Iterable[str], work: Callable[[str], None]) -> None:
        """Do *work* for every task; one whose record cannot be used holds up none of the others."""
        for task_id in task_ids:
            try:
                work(task_id)
            except RedisUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - see above
                note_fault("reconciling a task", error, task_id=task_id)
                self.store.postpone(task_id, FAULTY_SECONDS)

    def _forget(self) -> None:
        if forgotten := self.store.forget_ended():
            _LOG.info("ended jobs are forgotten", jobs=forgotten)

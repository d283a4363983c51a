"""The stores of jobs and tasks, with calls for tests that concern one task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from mirror.queue import NORMAL
from mirror.records.claims import Claim, ClaimStore, Outcome
from mirror.records.jobs import Entry, JobStore
from mirror.records.queued import QueuedTasks
from mirror.records.recovery import RecoveryStore
from mirror.records.spec import CopySpec
from mirror.records.states import RETENTION_SECONDS, WINDOW
from mirror.records.task import Task
from mirror.redis.client import Redis
from mirror.wiring import Core


def copy_of(task: Task) -> CopySpec:
    """Return what a task has to copy. Its spec must be that of a copy."""
    assert isinstance(task.spec, CopySpec)
    return task.spec


@dataclass(frozen=True, slots=True)
class Records:
    """The stores of one Redis.

    ``released`` are the queue entries that the claim store has added.
    """

    jobs: JobStore
    claims: ClaimStore
    recovery: RecoveryStore
    queued: QueuedTasks
    released: list[Entry]

    @classmethod
    def on(cls, redis: Redis, *, retention: int = RETENTION_SECONDS, window: int = WINDOW) -> Self:
        """Build the stores without a queue."""
        released: list[Entry] = []
        jobs = JobStore(redis, retention=retention, window=window)
        return cls(jobs, ClaimStore(redis, released.extend), RecoveryStore(redis), QueuedTasks(redis), released)

    @classmethod
    def of(cls, core: Core) -> Self:
        """Return the stores of a core, which add queue entries to its queue."""
        return cls(core.jobs, core.claims, core.recovery, core.queued, [])

    def claim(self, task_id: str, fence: int) -> Claim | None:
        [claim] = self.claims.claim([(task_id, fence, NORMAL)])
        return claim

    def remove_ended(self) -> int:
        """Remove the jobs whose retention is over. Return how many there were."""
        ended = self.recovery.ended()
        for job_id in ended:
            self.recovery.remove(job_id)
        return len(ended)

    def delete_leftovers(self) -> bool:
        """Take one step for each job whose tasks are to be deleted.

        Return whether tasks are left.
        """
        left = [self.recovery.delete_tasks(job_id) for job_id in self.recovery.leftovers()]
        return any(left)

    def settle(self, claim: Claim, state: str, outcome: Outcome) -> bool:
        [settled] = self.claims.settle(state, [(claim, outcome)])
        return settled

"""What the reconciler does to jobs and tasks.

It finds tasks that no worker works on, requests that a dead process left unfinished, and jobs to remove.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from mirror.errors import LONGEST_REST
from mirror.records.jobs import Entry, read_entries
from mirror.records.states import LOSSES_ALLOWED, job_script
from mirror.records.task import ErrorReport
from mirror.redis import keys
from mirror.redis.client import Redis

_PAGE: Final = 100
"""Tasks that one pass takes from each set."""


class RecoveryStore:
    """The sets in which the reconciler watches jobs and tasks.

    Every method raises RedisUnavailable.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._unpark = redis.script(job_script("unpark.lua"))
        self._expire = redis.script(job_script("expire.lua"))
        self._postpone = redis.script(job_script("postpone.lua"))
        self._step = redis.script(job_script("step.lua"))
        self._remove = redis.script(job_script("remove.lua"))
        self._delete_leftover = redis.script(job_script("delete_leftover.lua"))

    def expired(self) -> list[str]:
        """Return tasks whose worker was silent for longer than its lease."""
        return self._scored(keys.TASKS_RUNNING, self._redis.now())

    def expire(self, task_id: str, error: ErrorReport) -> list[Entry]:
        """Take an expired task from its worker. Return the queue entries to add.

        The task's own entry is among them unless its lease stands, or it ended: failed with *error*, or canceled.
        """
        return read_entries(self._expire(args=[task_id, LOSSES_ALLOWED, json.dumps(error.fields())]))

    def due(self) -> list[str]:
        """Return parked tasks whose time is over, or is further away than any wait."""
        now = self._redis.now()
        beyond = f"({now + int(LONGEST_REST * 1000)}"
        too_long = self._redis.call("ZRANGEBYSCORE", keys.TASKS_PARKED, beyond, "+inf", "LIMIT", 0, _PAGE)
        return [*self._scored(keys.TASKS_PARKED, now), *too_long]

    def unpark(self, task_id: str) -> list[Entry]:
        """Queue a parked task that is due. Return the queue entries to add.

        The task's own entry is among them unless it is not due, or failed because its patience has ended.
        """
        return read_entries(self._unpark(args=[task_id]))

    def queued_since(self, seconds: float) -> list[str]:
        """Return tasks whose entries were not looked at for *seconds*, the longest first."""
        return self._scored(keys.TASKS_QUEUED, self._redis.now() - int(seconds * 1000))

    def note_queued(self, task_ids: Sequence[str]) -> None:
        """Note that the tasks' queue entries exist now.

        Other tasks are looked at before these are looked at again.
        """
        if task_ids:
            now = self._redis.now()
            scored = [value for task_id in task_ids for value in (now, task_id)]
            self._redis.call("ZADD", keys.TASKS_QUEUED, "XX", *scored)

    def postpone(self, job_or_task: str, seconds: float) -> None:
        """Look at a job or task again after *seconds*.

        So the others come before one whose record cannot be used.
        """
        self._postpone(args=[job_or_task, self._redis.now() + int(seconds * 1000)])

    def unfinished_requests(self) -> list[str]:
        """Return jobs to look at with `continue_request`."""
        return self._scored(keys.JOBS_WATCHED, self._redis.now())

    def continue_request(self, job_id: str) -> tuple[bool, list[Entry]]:
        """Take one step of the cancel or retry under way, and fill the job's window.

        Returns whether tasks are left for another step, and the queue entries to add.
        """
        more, *entries = self._step(args=[job_id])
        return bool(more), read_entries(entries)

    def ended(self) -> list[str]:
        """Return jobs whose retention is over."""
        return self._scored(keys.JOBS_ENDED, self._redis.now())

    def remove(self, job_id: str) -> None:
        """Remove a job whose retention is over. Its tasks are left over then."""
        self._remove(args=[job_id, 1])

    def leftovers(self) -> list[str]:
        """Return jobs without a record whose tasks are to be deleted."""
        return self._scored(keys.JOBS_LEFTOVER, self._redis.now())

    def delete_tasks(self, job_id: str) -> bool:
        """Take one step of deleting the tasks of such a job.

        Return whether tasks are left for the next pass.
        """
        return bool(self._delete_leftover(args=[job_id]))

    def _scored(self, key: str, until: int) -> list[str]:
        return list(self._redis.call("ZRANGEBYSCORE", key, "-inf", until, "LIMIT", 0, _PAGE))

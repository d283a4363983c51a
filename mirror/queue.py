"""The transport: task ids on RQ's one queue. Nothing else in the core knows RQ.

The records are the truth and an entry here is only a wake-up: it may be lost (the reconciler puts it back) or come
twice (the claim takes one). An entry's id is ``<task>-<fence>``, so that an entry of an earlier claim is recognised.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Final

from mirror.redis import keys
from mirror.redis.failures import translated
from mirror.redis.scripts import Script

os.environ["RQ_KEY_PREFIX"] = keys.RQ_PREFIX  # RQ reads it once, when it is imported

import redis
import rq
from rq.job import Job

QUEUE_NAME: Final = "tasks"
TASK_FUNCTION: Final = "worker.tasks.mirror_image"
_FAILURE_SECONDS: Final = 3600
"""RQ keeps what it calls failed (a killed work horse) so long; by default it would be a year."""

_TAKE: Final = """
-- ARGV: what an entry's key begins with, how many entries.
local taken = redis.call('LPOP', KEYS[1], ARGV[2]) or {}
for _, entry in ipairs(taken) do redis.call('DEL', ARGV[1] .. entry) end
return taken
"""
_TAKE_THESE: Final = """
-- ARGV: what an entry's key begins with, then the entries. Answers those of them that were queued.
local taken = {}
for i = 2, #ARGV do
  if redis.call('LREM', KEYS[1], 1, ARGV[i]) == 1 then
    redis.call('DEL', ARGV[1] .. ARGV[i])
    taken[#taken + 1] = ARGV[i]
  end
end
return taken
"""


class TaskQueue:
    """The queue that workers listen on. *connection* must not decode answers: RQ does that itself."""

    def __init__(self, connection: redis.Redis) -> None:
        self.rq = rq.Queue(QUEUE_NAME, connection=connection, serializer="json")
        self._take = Script(connection, _TAKE)
        self._take_these = Script(connection, _TAKE_THESE)

    def put(self, task_id: str, fence: int) -> None:
        """Wake a worker for the task; raises RedisUnavailable."""
        self.put_all([(task_id, fence)])

    def put_all(self, tasks: Iterable[tuple[str, int]]) -> None:
        """Wake workers for the tasks, given with their fences: all of them in one turn, or none.

        Raises RedisUnavailable.
        """
        entries = [
            self.rq.prepare_data(
                TASK_FUNCTION,
                args=(task_id, fence),
                job_id=entry_id(task_id, fence),
                timeout=-1,
                result_ttl=0,
                failure_ttl=_FAILURE_SECONDS,
                description=task_id,
            )
            for task_id, fence in tasks
        ]
        if not entries:
            return
        with translated():
            self.rq.enqueue_many(entries)

    def take(self, most: int) -> list[tuple[str, int]]:
        """The next tasks, at most so many, each with the fence of its entry, which is gone now.

        For a worker that has begun already. Should it die before it claims them, the reconciler finds them.
        Raises RedisUnavailable.
        """
        taken = self._take([self.rq.key], [Job.key_for(""), most])
        return [_parse_entry_id(entry.decode()) for entry in taken]

    def page(self, start: int, count: int) -> list[tuple[str, int]]:
        """So many entries from a position on, as `take` returns them; they stay queued. Raises RedisUnavailable."""
        with translated():
            found: Any = self.rq.connection.lrange(self.rq.key, start, start + count - 1)
        return [_parse_entry_id(entry.decode()) for entry in found]

    def take_these(self, entries: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """Take these entries, wherever they stand; returns those that no other worker has taken before.

        Raises RedisUnavailable.
        """
        taken = self._take_these([self.rq.key], [Job.key_for(""), *(entry_id(*entry) for entry in entries)])
        return [_parse_entry_id(entry.decode()) for entry in taken]

    def holds(self, task_id: str, fence: int) -> bool:
        """Whether a worker will find the task's entry: it is listed and its record exists."""
        entry = entry_id(task_id, fence)
        with translated():
            listed = self.rq.get_job_position(entry) is not None
            return listed and Job.exists(entry, connection=self.rq.connection)


def entry_id(task_id: str, fence: int) -> str:
    return f"{task_id}-{fence}"


def _parse_entry_id(entry: str) -> tuple[str, int]:
    task_id, _, fence = entry.rpartition("-")
    return task_id, int(fence)

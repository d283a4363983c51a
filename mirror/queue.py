"""The transport: task ids on RQ's one queue.

No other module of the core imports RQ.

The records are the truth, and an entry here only wakes a worker. It may be lost, and the reconciler adds it again. It
may exist twice, and the claim takes one. An entry's id is ``<task>-<fence>``, so that an entry of an earlier claim is
recognised.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from mirror.redis import keys
from mirror.redis.failures import translated

os.environ["RQ_KEY_PREFIX"] = keys.RQ_PREFIX  # RQ reads it once, when it is imported

import redis
import rq
import structlog
from rq.job import Job

from mirror.background import record_fault
from mirror.errors import RedisUnavailable
from mirror.redis.scripts import Script, load_script

QUEUE_NAME: Final = "tasks"
TASK_FUNCTION: Final = "worker.tasks.mirror_image"
_FAILURE_SECONDS: Final = 3600
"""How long RQ keeps an entry that it calls failed (a killed work horse). Its default is a year."""
_FIRST: Final = 8
"""Entries that are added before the others, so that workers start while those are made. Each takes 0.1 ms."""
_LOG = structlog.get_logger(__name__)


class TaskQueue:
    """The queue that workers listen on.

    *connection* must not decode responses, because RQ does that itself.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self.rq = rq.Queue(QUEUE_NAME, connection=connection, serializer="json")
        self._take = Script(connection, load_script("mirror", "queue_take.lua"))
        self._take_these = Script(connection, load_script("mirror", "queue_take_these.lua"))

    def enqueue(self, entries: Sequence[tuple[str, int]]) -> None:
        """Wake workers for tasks, given as (task id, fence), whose records are stored.

        Raises nothing: where it fails, the reconciler adds the entries later.
        """
        try:
            for part in (entries[:_FIRST], entries[_FIRST:]):
                if part:
                    self._enqueue(part)
        except RedisUnavailable:
            _LOG.warning("tasks have no queue entries yet; the scheduler will add them", tasks=len(entries))
        except Exception as error:  # noqa: BLE001 - the records count
            record_fault("enqueuing tasks", error, tasks=len(entries))

    def _enqueue(self, entries: Sequence[tuple[str, int]]) -> None:
        """Add all of the entries in one round trip, or none."""
        prepared = [
            self.rq.prepare_data(
                TASK_FUNCTION,
                args=(task_id, fence),
                job_id=entry_id(task_id, fence),
                timeout=-1,
                result_ttl=0,
                failure_ttl=_FAILURE_SECONDS,
                description=task_id,
            )
            for task_id, fence in entries
        ]
        with translated():
            self.rq.enqueue_many(prepared)

    def take(self, most: int) -> list[tuple[str, int]]:
        """Take the next tasks, at most *most*, each with the fence of its entry.

        The entries are gone then.

        This is for a worker that is running already. If it dies before it claims them, the reconciler finds them.
        Raises RedisUnavailable.
        """
        taken = self._take([self.rq.key], [Job.key_for(""), most])
        return [_parse_entry_id(entry.decode()) for entry in taken]

    def page(self, start: int, count: int) -> list[tuple[str, int]]:
        """Return *count* entries from position *start* on, and leave them queued.

        Raises RedisUnavailable.
        """
        with translated():
            found: Any = self.rq.connection.lrange(self.rq.key, start, start + count - 1)
        return [_parse_entry_id(entry.decode()) for entry in found]

    def take_these(self, entries: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """Take these entries from any position.

        Return those that no other worker has taken before.

        Raises RedisUnavailable.
        """
        taken = self._take_these([self.rq.key], [Job.key_for(""), *(entry_id(*entry) for entry in entries)])
        return [_parse_entry_id(entry.decode()) for entry in taken]

    def holds(self, task_id: str, fence: int) -> bool:
        """Return whether the task's entry is listed and its record at RQ exists."""
        entry = entry_id(task_id, fence)
        with translated():
            listed = self.rq.get_job_position(entry) is not None
            return listed and Job.exists(entry, connection=self.rq.connection)


def entry_id(task_id: str, fence: int) -> str:
    return f"{task_id}-{fence}"


def _parse_entry_id(entry: str) -> tuple[str, int]:
    task_id, _, fence = entry.rpartition("-")
    return task_id, int(fence)

"""The transport: task ids on RQ's queues, one for each lane.

No other module of the core imports RQ.

A priority has two lanes. A job's fair share of tasks is in the short one, and all its others are in the bulk lane. The
scripts of `mirror.records` choose the lane of every entry. A task that moves from the bulk into the share leaves its
entry in the bulk lane, which is passed over later.

Lanes take turns by weight, so that none starves. An entry in a lane that was empty is taken next. Each lane is first
in, first out.

The records are the truth, and an entry here only wakes a worker. It may be lost, and the reconciler adds it again. It
may exist twice, and the claim takes one. An entry's id is ``<task>-<fence>``, so that an entry of an earlier claim is
recognised.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from mirror.redis import keys
from mirror.redis.failures import translated

os.environ["RQ_KEY_PREFIX"] = keys.RQ_PREFIX  # RQ reads it once, when it is imported

import redis
import rq
import structlog
from rq.job import Job
from rq.queue import EnqueueData

from mirror.background import record_fault
from mirror.errors import RedisUnavailable
from mirror.redis.scripts import Script, load_script

Entry = tuple[str, int, str]
"""The id of a task, the fence with which it can be claimed, and the lane."""
LANES: Final[Mapping[str, int]] = {
    "high": 16,
    "normal": 8,
    "high-bulk": 4,
    "normal-bulk": 2,
    "low": 1,
    "low-bulk": 1,
}
"""The weight of each lane. An idle worker looks into them in this order.

Workers that the shares of all jobs leave idle work on the bulk. So its weight is small.
"""
NORMAL: Final = "normal"
"""The lane of an entry whose lane is unknown."""
_EARLIER_NAME: Final = "tasks"
"""RQ's name for the normal lane. It was the only queue of earlier releases, whose workers listen on it."""
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
        self.connection = connection
        self.lanes = {
            lane: rq.Queue(_EARLIER_NAME if lane == NORMAL else lane, connection=connection, serializer="json")
            for lane in LANES
        }
        self._names = list(self.lanes)
        self._keys = [lane.key for lane in self.lanes.values()]
        self._strides = [max(LANES.values()) // weight for weight in LANES.values()]
        self._take = Script(connection, load_script("mirror", "queue_take.lua"))
        self._take_these = Script(connection, load_script("mirror", "queue_take_these.lua"))
        self._page = Script(connection, load_script("mirror", "queue_page.lua"))

    def enqueue(self, entries: Sequence[Entry]) -> None:
        """Wake workers for tasks whose records are stored.

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

    def _enqueue(self, entries: Sequence[Entry]) -> None:
        """Add all of the entries in one round trip, or none."""
        with translated(), self.connection.pipeline() as pipeline:
            for lane, group in groupby(sorted(entries, key=itemgetter(2)), key=itemgetter(2)):
                queue = self.lanes.get(lane, self.lanes[NORMAL])
                queue.enqueue_many([_prepared(queue, *entry) for entry in group], pipeline=pipeline)
            pipeline.execute()

    def take(self, most: int) -> list[Entry]:
        """Take the next entries, at most *most*, in the order in which the lanes take turns.

        The entries are gone then.

        This is for a worker that is running already. If it dies before it claims them, the reconciler finds them.
        Raises RedisUnavailable.
        """
        return self._entries(self._take(self._keys, [Job.key_for(""), most, *self._strides]))

    def page(self, start: int, count: int) -> list[Entry]:
        """Return *count* entries from position *start* on, lane after lane, and leave them queued.

        Raises RedisUnavailable.
        """
        return self._entries(self._page(self._keys, [start, count]))

    def take_these(self, entries: Sequence[Entry]) -> list[Entry]:
        """Take these entries from any position.

        Return those that no other worker has taken before.

        Raises RedisUnavailable.
        """
        wanted: list[str | float] = []
        for task_id, fence, lane in entries:
            wanted += [self._names.index(lane) + 1, entry_id(task_id, fence)]
        return self._entries(self._take_these(self._keys, [Job.key_for(""), *wanted]))

    def holds(self, task_id: str, fence: int) -> bool:
        """Return whether the task's entry is listed in a lane and its record at RQ is queued."""
        entry = entry_id(task_id, fence)
        with translated(), self.connection.pipeline(transaction=False) as pipeline:
            for key in self._keys:
                pipeline.lpos(key, entry)
            pipeline.hget(Job.key_for(entry), "status")
            *places, status = pipeline.execute()
        return status == b"queued" and any(place is not None for place in places)

    def _entries(self, found: Sequence[Any]) -> list[Entry]:
        """Read a script's list of places of lanes and ids."""
        return [
            (*_parse_entry_id(entry.decode()), self._names[place - 1])
            for place, entry in zip(found[::2], found[1::2], strict=True)
        ]


def _prepared(queue: rq.Queue, task_id: str, fence: int, _: str) -> EnqueueData:
    return queue.prepare_data(
        TASK_FUNCTION,
        args=(task_id, fence),
        job_id=entry_id(task_id, fence),
        timeout=-1,
        result_ttl=0,
        failure_ttl=_FAILURE_SECONDS,
        description=task_id,
    )


def entry_id(task_id: str, fence: int) -> str:
    return f"{task_id}-{fence}"


def _parse_entry_id(entry: str) -> tuple[str, int]:
    task_id, _, fence = entry.rpartition("-")
    return task_id, int(fence)

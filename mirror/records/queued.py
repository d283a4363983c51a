"""What is asked about tasks that are queued: what each belongs to, and its queue entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redis.exceptions import ResponseError

from mirror.records.jobs import Entry, read_entries
from mirror.records.spec import CopySpec, read_spec
from mirror.records.states import job_script
from mirror.redis import keys
from mirror.redis.client import Redis


@dataclass(frozen=True, slots=True)
class TaskOrigin:
    """The job that a task belongs to, and the registry that it reads."""

    job: str
    registry: str


class QueuedTasks:
    """The records of queued tasks. Safe to share between threads. Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._entry = redis.script(job_script("entry.lua"))

    def losses(self, task_ids: Sequence[str]) -> list[int]:
        """Return how many workers in a row each task has lost without getting further."""
        found = self._redis.calls(
            [["HGET", keys.task(task_id), "losses"] for task_id in task_ids], raise_on_error=False
        )
        return [int(losses) if isinstance(losses, str) and losses.isdecimal() else 0 for losses in found]

    def origins(self, task_ids: Sequence[str]) -> list[TaskOrigin | None]:
        """Return the job and the source registry of each task.

        None for a task that is gone, cannot be read, or has lost a worker before.
        """
        fields = ("losses", "job", "spec", "source", "target")
        commands = [["HMGET", keys.task(task_id), *fields] for task_id in task_ids]
        return [_origin(found) for found in self._redis.calls(commands, raise_on_error=False)]

    def entry(self, task_id: str) -> list[Entry]:
        """Return the entry that a queued task must have, or none if it is not queued any more."""
        return read_entries(self._entry(args=[task_id]))


def _origin(fields: Sequence[str | None] | ResponseError) -> TaskOrigin | None:
    if isinstance(fields, ResponseError):
        return None
    losses, job, document, source, target = fields
    if losses not in (None, "", "0") or not job:
        return None
    try:
        spec = read_spec(document) if document else CopySpec.parse(source or "", target or "")
    except ValueError:
        return None
    return TaskOrigin(job, spec.registry)

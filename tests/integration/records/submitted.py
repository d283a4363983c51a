"""Jobs in a store, brought to where a test begins."""

from __future__ import annotations

from typing import Final

from mirror.errors import WorkerLost
from mirror.records.claims import Claim
from mirror.records.job import Job
from mirror.records.spec import CopySpec
from mirror.records.task import ErrorReport, Task
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.support.records import Records

SOURCE: Final = "docker.io/library/redis:7"
SPEC: Final = CopySpec.parse(SOURCE, "docker.io/library/redis:7")
LOST: Final = ErrorReport.of(WorkerLost("task", 3))
DIGEST: Final = "sha256:" + "a" * 64


def submitted(records: Records, count: int = 1) -> tuple[Job, list[Task]]:
    job, tasks, _ = records.jobs.submit([SPEC] * count)
    return job, tasks


def claimed(records: Records, task: Task) -> Claim:
    claim = records.claim(task.id, task.fence)
    assert claim is not None
    return claim


def read(records: Records, task: Task) -> Task:
    """The task as it is now."""
    found = records.jobs.task(task.id)
    assert found is not None
    return found


def lose(redis: Redis, task_id: str) -> None:
    """Let the task's lease end."""
    redis.call("ZADD", keys.TASKS_RUNNING, 1, task_id)

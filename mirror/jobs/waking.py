"""Waking workers for tasks whose records are stored: the records count, an entry only saves waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from mirror.background import record_fault
from mirror.errors import RedisUnavailable
from mirror.queue import TaskQueue

_FIRST: Final = 8
"""Entries that are put before the others, so that a worker has begun when those are made, which takes 0.1 ms each."""
_LOG = structlog.get_logger(__name__)


def wake_workers(queue: TaskQueue, job_id: str, tasks: Sequence[tuple[str, int]]) -> None:
    """Put the entries of a job's tasks, given with their fences; where that fails, the reconciler puts them."""
    try:
        queue.put_all(tasks[:_FIRST])
        queue.put_all(tasks[_FIRST:])
    except RedisUnavailable:
        _LOG.warning("job stored without queue entries; the scheduler will put them", job_id=job_id)
    except Exception as error:  # noqa: BLE001 - the job is accepted, whatever comes after
        record_fault("waking workers", error, job_id=job_id)

"""The function that RQ calls. It takes an id, is safe to repeat, and holds no logic."""

from __future__ import annotations

from worker.task_pool import TaskPool
from worker.work_horse import CANCELLATION, worker_core


def mirror_image(task_id: str, fence: int) -> None:
    """Mirror the image of a task. Running it twice copies nothing twice.

    It raises nothing, because RQ would store the traceback.
    """
    core = worker_core()
    try:
        TaskPool(core, CANCELLATION).run(task_id, fence)
    finally:
        core.throttle.limiter.close()

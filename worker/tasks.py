"""What RQ calls. A task takes an id, is safe to repeat, and holds no logic."""

from __future__ import annotations

from functools import partial

from worker.core import worker_core
from worker.task_pool import TaskPool
from worker.work_horse import CANCELLATION, give_back_at_the_end, settled


def mirror_image(task_id: str, fence: int) -> None:
    """Mirror the task's image; running it twice copies nothing twice. Raises nothing: RQ would store the traceback."""
    core = worker_core()
    claimed = partial(give_back_at_the_end, core.runner)
    try:
        TaskPool(core.runner, core.queue, CANCELLATION, claimed=claimed, settled=settled).work(task_id, fence)
    finally:
        core.throttle.slots.close()

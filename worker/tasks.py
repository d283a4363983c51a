"""What RQ calls. A task takes an id, is safe to repeat, and holds no logic."""

from __future__ import annotations

from functools import partial

from worker.horse import INTERRUPTION, give_back_at_the_end, settled
from worker.shift import Shift
from worker.workshop import workshop


def mirror_image(task_id: str, fence: int) -> None:
    """Mirror the task's image; running it twice copies nothing twice. Raises nothing: RQ would store the traceback."""
    equipped = workshop()
    claimed = partial(give_back_at_the_end, equipped.performer)
    try:
        Shift(equipped.performer, equipped.queue, INTERRUPTION, claimed=claimed, settled=settled).work(task_id, fence)
    finally:
        equipped.admission.close()

"""What RQ calls. A task takes an id, is safe to repeat, and holds no logic."""

from __future__ import annotations

from functools import partial

import structlog

from mirror.errors import RedisUnavailable
from worker.horse import INTERRUPTION, give_back_at_the_end
from worker.workshop import workshop

_LOG = structlog.get_logger(__name__)


def mirror_image(task_id: str, fence: int) -> None:
    """Mirror the task's image; running it twice copies nothing twice. Raises nothing: RQ would store the traceback."""
    performer = workshop().performer
    try:
        performer.perform(task_id, fence, INTERRUPTION, claimed=partial(give_back_at_the_end, performer))
    except RedisUnavailable:
        _LOG.error("Redis stayed away; the task's lease will end and another worker will take it", task_id=task_id)

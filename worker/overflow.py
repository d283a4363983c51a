"""Extra slots of a work horse, for registries and jobs that have none of its usual ones.

A registry that responds slowly, or never, may have taken every usual slot. Then tasks of other registries are taken
from the middle of the queue, and run in extra slots. A large job of large images may have taken them, too. Then the
fair shares of other jobs get extra slots. So a small job does not wait for the end of a large image, unless its
priority is low.

If all images come from one registry, and no job has many slots, nothing changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from time import monotonic
from typing import Final

from mirror.errors import RedisUnavailable
from mirror.queue import TaskQueue
from mirror.records.jobs import Entry
from mirror.records.queued import QueuedTasks, TaskOrigin

OVERFLOW: Final = 4
"""Extra slots for all other registries and jobs together."""
OVERFLOW_OF_ONE: Final = 2
"""Extra slots for the tasks of one registry, so that a second slow one does not take all of them."""
MANY: Final = 4
"""Usual slots of one job from which on other jobs get extra slots."""
_PROMPT_LANES: Final = ("high", "normal")
"""The lanes of the shares of those jobs."""
PAGE: Final = 100
"""Entries of the queue that are read at once."""
PAGE_SECONDS: Final = 1.0
"""Seconds between two pages. A page takes 1 ms of CPU."""
_HEAD: Final = 20
"""Entries at the head of the queue that are read with each page. A small job that was just posted is there."""


class OverflowQueue:
    """Reads the queue page by page and takes the tasks that fit an extra slot. Used by one thread."""

    def __init__(self, queue: TaskQueue, queued: QueuedTasks) -> None:
        self._queue = queue
        self._queued = queued
        self._due = monotonic()
        self._start = 0

    def take(self, usual: Collection[TaskOrigin], extra: Collection[TaskOrigin]) -> list[Entry]:
        """Take the entries of the head of the queue and of its next page for which there is an extra slot.

        *usual* and *extra* are the origins of the tasks in usual and in extra slots.
        """
        if monotonic() < self._due:
            return []
        self._due = monotonic() + PAGE_SECONDS
        try:
            page = self._queue.page(self._start, PAGE)
            head = self._queue.page(0, min(_HEAD, self._start)) if self._start else []
            self._start = self._start + PAGE if len(page) == PAGE else 0
            entries = [*head, *page]
            origins = self._queued.origins([task_id for task_id, *_ in entries])
            chosen = choose(zip(entries, origins, strict=True), usual, extra)
            return self._queue.take_these(chosen) if chosen else []
        except RedisUnavailable:
            return []


def choose(
    page: Iterable[tuple[Entry, TaskOrigin | None]], usual: Collection[TaskOrigin], extra: Collection[TaskOrigin]
) -> list[Entry]:
    """Choose the entries of *page* that may begin now. Each stands with its origin. One without may not."""
    busy = {origin.registry for origin in usual}
    most_of_one_job = max(Counter(origin.job for origin in usual).values(), default=0)
    served = {origin.job for origin in (*usual, *extra)}
    taken = Counter(origin.registry for origin in extra)
    chosen = []
    for entry, origin in page:
        if origin is None or not origin.registry:
            continue
        is_delayed = most_of_one_job >= MANY and entry[2] in _PROMPT_LANES and origin.job not in served
        if origin.registry in busy and not is_delayed:
            continue
        if taken.total() < OVERFLOW and taken[origin.registry] < OVERFLOW_OF_ONE:
            taken[origin.registry] += 1
            served.add(origin.job)
            chosen.append(entry)
    return chosen

"""Extra slots of a work horse, for registries that have none of its usual ones.

A registry that responds slowly, or never, may have taken every usual slot. Then tasks of other registries are taken
from the middle of the queue, and run in extra slots. If all images come from one registry, nothing changes: its tasks
have all the usual slots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from time import monotonic
from typing import Final

from mirror.errors import RedisUnavailable
from mirror.queue import TaskQueue
from mirror.records.claims import ClaimStore
from mirror.records.jobs import Entry

OVERFLOW: Final = 4
"""Extra slots for all other registries together."""
OVERFLOW_OF_ONE: Final = 2
"""Extra slots for one other registry, so that a second slow one does not take all of them."""
PAGE: Final = 100
"""Entries of the queue that are read at once."""
PAGE_SECONDS: Final = 1.0
"""Seconds between two pages. A page takes 1 ms of CPU."""


class OverflowQueue:
    """Reads the queue page by page and takes the tasks that fit an extra slot. Used by one thread."""

    def __init__(self, queue: TaskQueue, claims: ClaimStore) -> None:
        self._queue = queue
        self._claims = claims
        self._due = monotonic()
        self._start = 0

    def take(self, busy: Collection[str], overflowing: Iterable[str]) -> list[Entry]:
        """Take the entries of the next page for which there is an extra slot.

        *busy* are the registries that have usual slots. *overflowing* names the registry of each task in an extra slot.
        """
        if monotonic() < self._due:
            return []
        self._due = monotonic() + PAGE_SECONDS
        try:
            page = self._queue.page(self._start, PAGE)
            self._start = self._start + PAGE if len(page) == PAGE else 0
            registries = self._claims.registries([task_id for task_id, *_ in page])
            chosen = choose(zip(page, registries, strict=True), busy, overflowing)
            return self._queue.take_these(chosen) if chosen else []
        except RedisUnavailable:
            return []


def choose(page: Iterable[tuple[Entry, str | None]], busy: Collection[str], overflowing: Iterable[str]) -> list[Entry]:
    """Choose the entries of *page* that may begin now. Each stands with its registry. One without may not."""
    taken = Counter(overflowing)
    chosen = []
    for entry, registry in page:
        if not registry or registry in busy:
            continue
        if taken.total() < OVERFLOW and taken[registry] < OVERFLOW_OF_ONE:
            taken[registry] += 1
            chosen.append(entry)
    return chosen

"""Limiter beyond a work horse's usual ones, for registries that have none of those.

A registry that answers slowly, or on purpose never, may have taken every slot. Tasks of other registries are looked for
in the queue then, however many of the slow one stand before them, and begin in a slot of `OVERFLOW`. A fleet whose
images all come from one registry loses nothing to this: its tasks have all the usual slots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from time import monotonic
from typing import Final

from mirror.errors import RedisUnavailable
from mirror.oci.reference import Reference
from mirror.queue import TaskQueue
from mirror.records.claims import ClaimStore

OVERFLOW: Final = 4
"""Limiter for all other registries together."""
OVERFLOW_OF_ONE: Final = 2
"""Limiter for one other registry, so that a second slow one does not take all of these, too."""
PAGE: Final = 100
"""Entries of the queue that are looked through at a time."""
PAGE_SECONDS: Final = 1.0
"""Between two pages, each measured at 1 ms of CPU."""

Entry = tuple[str, int]
"""A task's id and the fence of its queue entry."""


class OverflowQueue:
    """Takes tasks out of turn: for one thread of one work horse."""

    def __init__(self, queue: TaskQueue, store: ClaimStore) -> None:
        self._queue = queue
        self._store = store
        self._due = monotonic()
        self._start = 0

    def take(self, occupying: Collection[str], overflowing: Iterable[str]) -> list[Entry]:
        """Take the entries from the next page of the queue for which there is a slot.

        *occupying* are the registries that have usual slots; *overflowing* has one for every task in a slot of these.
        """
        if monotonic() < self._due:
            return []
        self._due = monotonic() + PAGE_SECONDS
        try:
            page = self._queue.page(self._start, PAGE)
            self._start = self._start + PAGE if len(page) == PAGE else 0
            sources = self._store.sources([task_id for task_id, _ in page])
            chosen = choose(zip(page, sources, strict=True), occupying, overflowing)
            return self._queue.take_these(chosen) if chosen else []
        except RedisUnavailable:
            return []


def choose(
    page: Iterable[tuple[Entry, Reference | None]], occupying: Collection[str], overflowing: Iterable[str]
) -> list[Entry]:
    """The entries, given with their sources, that may begin now; one without a source may not."""
    taken = Counter(overflowing)
    chosen = []
    for entry, source in page:
        if source is None or source.registry in occupying:
            continue
        if taken.total() < OVERFLOW and taken[source.registry] < OVERFLOW_OF_ONE:
            taken[source.registry] += 1
            chosen.append(entry)
    return chosen

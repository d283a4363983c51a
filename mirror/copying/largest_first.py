"""Whose parts are next: the blobs of an image take their buffers one blob after the other, the largest first.

If all took turns part by part, all would end at once, and S3 would put them together while nothing travels any more.
So a blob that has begun asks for all its parts before the next one does, whose first parts fill up what its last ones
leave free.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mirror.copying.cancellation import Cancellation


class LargestFirst:
    """Safe to share between threads. Who has the turn waits for nothing but memory and threads, which come back
    without it: parts give back what they have taken by themselves.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, object]] = []
        self._taken = False
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, size: int, cancellation: Cancellation) -> Iterator[None]:
        """The block runs when nobody else's does and no larger blob waits; raises OperationCanceled while it waits."""
        mine = (size, object())
        with self._changed:
            self._waiting.append(mine)
            try:
                cancellation.wait_for(self._changed, lambda: self._is_next(mine))
                self._taken = True
            finally:
                self._waiting.remove(mine)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        with self._changed:
            return len(self._waiting)

    def _is_next(self, mine: tuple[int, object]) -> bool:
        return not self._taken and mine is max(self._waiting, key=lambda waiting: waiting[0])

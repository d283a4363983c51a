"""Buffers under one budget: what a worker holds in memory is bounded by design, not by luck."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mirror.copying.interruption import Interruption


class MemoryBudget:
    """Hands out buffers while their sum stays within *limit* bytes; others wait.

    No deadlock: a transfer takes one buffer, once, and holds nothing else while it waits.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def buffer(self, size: int, interruption: Interruption) -> Iterator[memoryview]:
        """A buffer of *size* bytes, given back at the end of the block; raises Interrupted while it waits."""
        if size > self.limit:
            raise ValueError(f"a buffer of {size} bytes exceeds the budget of {self.limit}")
        with self._changed, interruption.waking(self._wake):
            self._changed.wait_for(lambda: interruption.is_set() or self._used + size <= self.limit)
            interruption.check()
            self._used += size
        try:
            yield memoryview(bytearray(size))
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

"""Buffers under one budget: what a worker holds in memory is bounded by design, not by luck."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

from mirror.copying.interruption import Interruption


class MemoryBudget:
    """Hands out buffers while all there are, in use and idle, stay within *limit* bytes; others wait, first come first
    served, so that a large one is not passed for ever by small ones.

    No deadlock: whoever waits holds only buffers that others of its own blob will free without needing another one
    (`blob_transfer`: parts take theirs in the blob's order and give them back in it).

    Buffers are kept for the next one of their size: fresh memory is zeroed page by page, reused memory is not.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._idle: dict[int, list[bytearray]] = defaultdict(list)
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def take(self, size: int, interruption: Interruption) -> bytearray:
        """A buffer of *size* bytes with anything in it, to be given back; raises Interrupted while it waits."""
        if size > self.limit:
            raise ValueError(f"a buffer of {size} bytes exceeds the budget of {self.limit}")
        turn = object()
        with self._changed, interruption.waking(self._wake):
            self._waiting.append(turn)
            try:
                self._changed.wait_for(
                    lambda: interruption.is_set() or (self._waiting[0] is turn and self._used + size <= self.limit)
                )
                interruption.check()
                self._used += size
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
            return self._idle[size].pop() if self._idle[size] else self._made(size)

    def give_back(self, buffer: bytearray) -> None:
        with self._changed:
            self._used -= len(buffer)
            self._idle[len(buffer)].append(buffer)
            self._changed.notify_all()

    @contextmanager
    def buffer(self, size: int, interruption: Interruption) -> Iterator[bytearray]:
        """A buffer for the block."""
        taken = self.take(size, interruption)
        try:
            yield taken
        finally:
            self.give_back(taken)

    def _made(self, size: int) -> bytearray:
        """A new buffer, in the place of idle ones of other sizes where there is no other."""
        idle = sum(length * len(buffers) for length, buffers in self._idle.items())
        while self._used + idle > self.limit:
            length, buffers = next((length, buffers) for length, buffers in self._idle.items() if buffers)
            buffers.pop()
            idle -= length
        return bytearray(size)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

"""Buffers under one budget: what a worker holds in memory is bounded by design, not by luck."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from mirror.copying.huge_pages import new_buffer
from mirror.copying.interruption import Interruption


class MemoryBudget:
    """Hands out buffers while all there are, in use and idle, stay within *limit* bytes; others wait, first come first
    served, so that a large one is not passed for ever by small ones.

    No deadlock: a buffer is taken before a connection to the source, never behind one, and what a blob holds is given
    back without its taking more (`parts_copy`: parts take theirs in the blob's order and give them back in it).

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
        with self._changed:
            self._waiting.append(turn)
            try:
                interruption.wait_for(
                    self._changed, lambda: self._waiting[0] is turn and self._used + size <= self.limit
                )
                self._used += size
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
            return self._idle[size].pop() if self._idle[size] else self._made(size)

    def take_if_free(self, size: int) -> bytearray | None:
        """A buffer if there is room for one and nobody is waiting."""
        with self._changed:
            if self._waiting or self._used + size > self.limit:
                return None
            self._used += size
            return self._idle[size].pop() if self._idle[size] else self._made(size)

    def give_back(self, buffer: bytearray) -> None:
        with self._changed:
            self._used -= len(buffer)
            self._idle[len(buffer)].append(buffer)
            self._changed.notify_all()

    @property
    def held(self) -> int:
        """Bytes of all buffers there are, in use and idle."""
        with self._changed:
            return self._used + self._idle_bytes()

    @property
    def waiting(self) -> int:
        """How many wait for a buffer."""
        with self._changed:
            return len(self._waiting)

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
        idle = self._idle_bytes()
        while self._used + idle > self.limit:
            length, buffers = next((length, buffers) for length, buffers in self._idle.items() if buffers)
            buffers.pop()
            idle -= length
        return new_buffer(size)

    def _idle_bytes(self) -> int:
        return sum(size * len(buffers) for size, buffers in self._idle.items())


class BufferRing:
    """Buffers of one size that go round among the parts of one blob: the first, and more while memory is free.

    As a context: at its end, when nobody uses them any more, all go back to the budget.
    """

    def __init__(self, memory: MemoryBudget, first: bytearray) -> None:
        self._memory = memory
        self._size = len(first)
        self._free = [first]
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for buffer in self._free:
            self._memory.give_back(buffer)

    def take(self, interruption: Interruption) -> bytearray:
        """A free one, if need be when another part gives it back; raises Interrupted while it waits."""
        interruption.check()
        with self._changed:
            if not self._free and (more := self._memory.take_if_free(self._size)):
                return more
            interruption.wait_for(self._changed, lambda: self._free)
            return self._free.pop()

    def give_back(self, buffer: bytearray) -> None:
        with self._changed:
            self._free.append(buffer)
            self._changed.notify_all()

"""Buffers and manifests under one budget: what a worker holds in memory is bounded by design, not by luck.

Buffers are held for moments, manifests from their reading until the end of their image's task. Why the two never wait
for each other in a circle:

* An image's manifests are reserved as they are met. Where other images leave no room for them, that is waited for no
  longer than `LONGEST_WAIT`. Then the task gives back what it has and is parked (MemoryBusy). So no two hold a part
  each and wait for the rest.
* All images share an eighth of the budget. One at a time may have more, up to five eighths, whatever the others have.
  So that one always gets what it needs, and an image that needs more can never have it and is refused.
* A reservation waits for buffers to be given back, which happens without their holders' taking or reserving more.
* A quarter of the budget is always left for buffers. A single part that is larger than that gets its buffer when no
  other one is in use, beyond the budget if need be.

An image of ordinary size counts for nothing here. Its first `FREE` bytes belong to what a worker needs beside its
budget, and cost no lock.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Self

from mirror.copying.cancellation import Cancellation
from mirror.copying.huge_pages import new_buffer
from mirror.errors import ManifestInvalid, MemoryBusy

BLOB_BYTES: Final = 600
"""Of a worker's memory for each blob that a manifest names: its descriptor, its place in the plan and in the queue, and
what is known of its progress. Measured 480 with Python 3.11, and sets of all digests come and go."""
FREE: Final = 2**20
"""Bytes of one image's manifests that are not counted."""
LONGEST_WAIT: Final = 5.0
"""Seconds for which a worker's thread waits for other images' manifests to go."""


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
        self._shared = 0
        self._large: ManifestMemory | None = None
        self._idle: dict[int, list[bytearray]] = defaultdict(list)
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def take(self, size: int, cancellation: Cancellation) -> bytearray:
        """A buffer of *size* bytes with anything in it, to be given back; raises OperationCanceled while it waits."""
        if size > self.limit:
            raise ValueError(f"a buffer of {size} bytes exceeds the budget of {self.limit}")
        with self._changed:
            with self._in_turn(lambda: self._has_room(size) or not self._used, cancellation):
                self._used += size
            return self._taken(size)

    def take_if_free(self, size: int) -> bytearray | None:
        """A buffer if there is room for one and nobody is waiting."""
        with self._changed:
            if self._waiting or not self._has_room(size):
                return None
            self._used += size
            return self._taken(size)

    def give_back(self, buffer: bytearray) -> None:
        with self._changed:
            self._used -= len(buffer)
            self._idle[len(buffer)].append(buffer)
            self._drop_idle()
            self._changed.notify_all()

    def reserve(self, memory: ManifestMemory, count: int, cancellation: Cancellation) -> None:
        """Count *count* bytes more for the manifests of one image; see `ManifestMemory.hold`."""
        with self._changed:
            total = memory.held + count
            if total > self.limit * 5 // 8:
                raise ManifestInvalid(
                    memory.what,
                    f"its manifests and their list of blobs need {total} bytes of a worker's memory, more than it has",
                    hint="If the image is meant to be so large, raise MIRROR_MEMORY_BUDGET on the workers.",
                )
            more = max(total - FREE, 0) - max(memory.held - FREE, 0)
            if not cancellation.wait_for(self._changed, lambda: self._may_have(memory, more), LONGEST_WAIT):
                raise MemoryBusy(memory.what)
            if self._large is not memory and self._shared + more <= self.limit // 8:
                self._shared += more
            elif self._large is not memory:
                self._shared -= max(memory.held - FREE, 0)
                self._large = memory
            memory.held = total
            with self._in_turn(lambda: self._has_room(0), cancellation):
                self._drop_idle()

    def _may_have(self, memory: ManifestMemory, more: int) -> bool:
        return self._large in (None, memory) or self._shared + more <= self.limit // 8

    def release(self, memory: ManifestMemory) -> None:
        """Count nothing more for the image."""
        with self._changed:
            if self._large is memory:
                self._large = None
            else:
                self._shared -= max(memory.held - FREE, 0)
            memory.held = 0
            self._changed.notify_all()

    @property
    def reserved(self) -> int:
        """Bytes that manifests hold, but for what is free for each image."""
        return self._shared + (self._large.held if self._large else 0)

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
    def buffer(self, size: int, cancellation: Cancellation) -> Iterator[bytearray]:
        """A buffer for the block."""
        taken = self.take(size, cancellation)
        try:
            yield taken
        finally:
            self.give_back(taken)

    @contextmanager
    def _in_turn(self, is_possible: Callable[[], bool], cancellation: Cancellation) -> Iterator[None]:
        """Wait until that is possible, and everybody has been served who came before."""
        turn = object()
        self._waiting.append(turn)
        try:
            cancellation.wait_for(self._changed, lambda: self._waiting[0] is turn and is_possible())
            yield
        finally:
            self._waiting.remove(turn)
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        return self._used + size + self.reserved <= self.limit

    def _taken(self, size: int) -> bytearray:
        """An idle buffer, or a new one in the place of idle ones of other sizes."""
        if self._idle[size]:
            return self._idle[size].pop()
        self._drop_idle()
        return new_buffer(size)

    def _drop_idle(self) -> None:
        """Leave no more idle buffers than there is room for beside all that is in use."""
        idle = self._idle_bytes()
        while idle and self._used + idle + self.reserved > self.limit:
            length, buffers = next((length, buffers) for length, buffers in self._idle.items() if buffers)
            buffers.pop()
            idle -= length

    def _idle_bytes(self) -> int:
        return sum(size * len(buffers) for size, buffers in self._idle.items())


class ManifestMemory:
    """What the manifests of one image hold of a budget, from their reading until the end of the `with` block.

    *what* names the image in errors. Safe to share between the threads that read them.
    """

    def __init__(self, budget: MemoryBudget, what: str, cancellation: Cancellation) -> None:
        self.what = what
        self.held = 0
        self._budget = budget
        self._cancellation = cancellation
        self._lock = threading.Lock()

    def hold(self, size: int, *, blobs: int = 0) -> None:
        """Count manifests of *size* bytes together that name so many blobs.

        Raises MemoryBusy if other images have what it needs, ManifestInvalid if it needs more than any image may have,
        or OperationCanceled while it waits for buffers that are in use.
        """
        count = size + blobs * BLOB_BYTES
        with self._lock:
            if self.held + count <= FREE:
                self.held += count
                return
            self._budget.reserve(self, count, self._cancellation)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.held > FREE:
            self._budget.release(self)


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

    def take(self, cancellation: Cancellation) -> bytearray:
        """A free one, if need be when another part gives it back; raises OperationCanceled while it waits."""
        cancellation.check()
        with self._changed:
            if not self._free and (more := self._memory.take_if_free(self._size)):
                return more
            cancellation.wait_for(self._changed, lambda: self._free)
            return self._free.pop()

    def give_back(self, buffer: bytearray) -> None:
        with self._changed:
            self._free.append(buffer)
            self._changed.notify_all()

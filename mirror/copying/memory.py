"""Bound a worker's memory: buffers and manifests share one budget.

Buffers are held for moments. Manifests are held from when they are read until the task of their image ends. The two
never wait for each other in a circle:

* An image's manifests are reserved as they are read. If other images leave no room, the task waits at most
  `LONGEST_WAIT`. Then it releases what it has and is parked (MemoryBusy). So no two tasks hold a part each and wait for
  the rest.
* All images share an eighth of the budget. One image at a time may have more, up to five eighths, whatever the others
  have. So that image always gets what it needs. An image that needs more than this can never have it and is refused.
* A reservation waits until buffers are returned. Their holders return them without taking or reserving more.
* A quarter of the budget is always left for buffers. A part that is larger than that gets its buffer when no other
  buffer is in use, if need be beyond the budget.

An image of ordinary size is not counted here. Its first `FREE` bytes belong to the memory that a worker needs next to
its budget, and take no lock.

Large buffers use huge pages where the kernel provides them. A buffer is written once and read three times (checksum,
hash, socket). With pages of 4 KiB, each of its 4096 pages is looked up every time: measured 5 % of a copy's CPU. The
kernel gives pages of 2 MiB to processes that advise it so (Documentation/admin-guide/mm/transhuge.rst).
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Self, cast

from mirror.copying.cancellation import Cancellation
from mirror.errors import ManifestInvalid, MemoryBusy

BLOB_BYTES: Final = 600
"""Bytes of a worker's memory for each blob that a manifest names: its descriptor, its places in the plan and in the
queue, and its progress. Measured: 480 with Python 3.11, and sets of all digests come and go."""
FREE: Final = 2**20
"""Bytes of one image's manifests that are not counted."""
LONGEST_WAIT: Final = 5.0
"""Seconds for which a thread waits for other images' manifests to be released."""
HUGE_PAGE: Final = 2 * 2**20
"""Bytes in a huge page of x86-64, and of arm64 with pages of 4 KiB. With another size nothing is gained here."""
_MADV_HUGEPAGE: Final = getattr(mmap, "MADV_HUGEPAGE", None)
_LIBC: Final = ctypes.CDLL(None)
_NEW_BYTEARRAY: Final = ctypes.pythonapi.PyByteArray_FromStringAndSize
_NEW_BYTEARRAY.argtypes, _NEW_BYTEARRAY.restype = (ctypes.c_char_p, ctypes.c_ssize_t), ctypes.py_object


class MemoryBudget:
    """Hands out buffers while all buffers, in use and idle, stay within *limit* bytes.

    Others wait, first come first served, so that small requests cannot overtake a large one for ever. There is no
    deadlock: a buffer is taken before a connection to the source is opened, never after. A blob returns its buffers
    without taking more (`multipart_copy`: parts take and return them in the blob's order).

    A returned buffer is kept for the next request of its size. The kernel zeroes fresh memory page by page, but not
    reused memory.
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
        """Return a buffer of *size* bytes with any content. Raises OperationCanceled while it waits.

        The caller returns it with `give_back`.
        """
        if size > self.limit:
            raise ValueError(f"a buffer of {size} bytes exceeds the budget of {self.limit}")
        with self._changed:
            with self._in_turn(lambda: self._has_room(size) or not self._used, cancellation):
                self._used += size
            return self._buffer_for(size)

    def take_if_free(self, size: int) -> bytearray | None:
        """Return a buffer if there is room for it and no other thread waits, else None."""
        with self._changed:
            if self._waiting or not self._has_room(size):
                return None
            self._used += size
            return self._buffer_for(size)

    def give_back(self, buffer: bytearray) -> None:
        with self._changed:
            self._used -= len(buffer)
            self._idle[len(buffer)].append(buffer)
            self._drop_idle()
            self._changed.notify_all()

    def reserve(self, memory: ManifestMemory, count: int, cancellation: Cancellation) -> None:
        """Count *count* more bytes for the manifests of one image. See `ManifestMemory.hold`."""
        with self._changed:
            total = memory.held + count
            if total > self.limit * 5 // 8:
                raise ManifestInvalid(
                    memory.what,
                    f"its manifests and their list of blobs need {total} bytes of a worker's memory, more than it has",
                    hint="If the image is meant to be so large, raise MIRROR_MEMORY_BUDGET on the workers.",
                )
            more = max(total - FREE, 0) - max(memory.held - FREE, 0)

            def may_be_shared() -> bool:
                return self._shared + more <= self.limit // 8

            if not cancellation.wait_for(
                self._changed, lambda: self._large in (None, memory) or may_be_shared(), LONGEST_WAIT
            ):
                raise MemoryBusy(memory.what)
            if self._large is not memory and may_be_shared():
                self._shared += more
            elif self._large is not memory:
                self._shared -= max(memory.held - FREE, 0)
                self._large = memory
            memory.held = total
            with self._in_turn(lambda: self._has_room(0), cancellation):
                self._drop_idle()

    def release(self, memory: ManifestMemory) -> None:
        """Count nothing for the image any more."""
        with self._changed:
            if self._large is memory:
                self._large = None
            else:
                self._shared -= max(memory.held - FREE, 0)
            memory.held = 0
            self._changed.notify_all()

    @property
    def reserved(self) -> int:
        """Bytes that manifests hold, without the `FREE` bytes of each image."""
        return self._shared + (self._large.held if self._large else 0)

    @property
    def held(self) -> int:
        """Bytes of all buffers, in use and idle."""
        with self._changed:
            return self._used + sum(size * len(buffers) for size, buffers in self._idle.items())

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        with self._changed:
            return len(self._waiting)

    @contextmanager
    def buffer(self, size: int, cancellation: Cancellation) -> Iterator[bytearray]:
        """Yield a buffer, and return it after the block."""
        taken = self.take(size, cancellation)
        try:
            yield taken
        finally:
            self.give_back(taken)

    @contextmanager
    def _in_turn(self, is_possible: Callable[[], bool], cancellation: Cancellation) -> Iterator[None]:
        """Wait until *is_possible* returns true and all earlier requests are served."""
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

    def _buffer_for(self, size: int) -> bytearray:
        """Return an idle buffer, or a new one in place of idle ones of other sizes."""
        if self._idle[size]:
            return self._idle[size].pop()
        self._drop_idle()
        return new_buffer(size)

    def _drop_idle(self) -> None:
        """Drop idle buffers until the rest fits into the budget together with everything in use."""
        idle = self.held - self._used
        while idle and self._used + idle + self.reserved > self.limit:
            length, buffers = next((length, buffers) for length, buffers in self._idle.items() if buffers)
            buffers.pop()
            idle -= length


class ManifestMemory:
    """The share of a budget that the manifests of one image hold, until the end of the `with` block.

    *what* names the image in errors. Safe to share between the threads that read the manifests.
    """

    def __init__(self, budget: MemoryBudget, what: str, cancellation: Cancellation) -> None:
        self.what = what
        self.held = 0
        self._budget = budget
        self._cancellation = cancellation
        self._lock = threading.Lock()

    def hold(self, size: int, *, blobs: int = 0) -> None:
        """Count manifests of *size* bytes in total that name *blobs* blobs.

        Raises MemoryBusy if other images hold the memory that it needs. Raises ManifestInvalid if it needs more than an
        image may have, or OperationCanceled while it waits for buffers that are in use.
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
    """Buffers of one size that the parts of one blob reuse: the first one, and more while memory is free.

    As a context: at its end, when no part uses them any more, all are returned to the budget.
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
        """Return a free buffer. Waits for another part to give one back, and raises OperationCanceled meanwhile."""
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


def new_buffer(size: int) -> bytearray:
    """Return a bytearray of *size* bytes with any content, on huge pages if it is large.

    It is not zeroed: ``bytearray(size)`` touches every page, which takes 10 ms for a part and blocks all other threads.
    It is a bytearray, because boto3 sends nothing else without copying it. A mapping counts as a file there.
    """
    if _MADV_HUGEPAGE is None or size < 2 * HUGE_PAGE:
        return _uninitialized(size)
    buffer = _uninitialized(size + HUGE_PAGE)
    del buffer[: -address(buffer) % HUGE_PAGE]  # moves nothing: the front is left unused (bytearrayobject.c, ob_start)
    del buffer[size:]
    advised = ctypes.c_size_t(size // HUGE_PAGE * HUGE_PAGE)
    _LIBC.madvise(ctypes.c_void_p(address(buffer)), advised, _MADV_HUGEPAGE)
    return buffer


def address(buffer: bytearray) -> int:
    """Return the address of the buffer's first byte."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _uninitialized(size: int) -> bytearray:
    return cast("bytearray", _NEW_BYTEARRAY(None, size))

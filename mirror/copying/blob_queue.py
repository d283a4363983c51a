"""Order the blobs of one image: which blob a thread copies next, and which blob gets the next buffers.

Both prefer the largest blob.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from mirror.copying.cancellation import Cancellation
from mirror.errors import BlobBusy
from mirror.oci.descriptor import Descriptor

LONGEST_WAIT: Final = 5.0
"""Seconds for which a task only waits for blobs that other workers copy. After that it is parked."""
_RETRY_SECONDS: Final = 0.2
"""Seconds after which a blob that another worker copies is tried again."""


class BlobQueue:
    """The blobs of one image that are still to be copied, in the given order. Safe to share between threads.

    Each thread calls `next` until it returns None, and after each blob `done` or `put_back`.
    """

    def __init__(self, blobs: Iterable[Descriptor], cancellation: Cancellation) -> None:
        self._waiting = [(0.0, blob) for blob in blobs]
        self._cancellation = cancellation
        self._in_progress = 0
        self._last_done = monotonic()
        self._changed = threading.Condition()

    def next(self) -> Descriptor | None:
        """Return a blob to copy, or None when none is left.

        Raises BlobBusy when other workers have had all remaining blobs for `LONGEST_WAIT`, or OperationCanceled.
        """
        with self._changed, self._cancellation.on_cancel(self._wake):
            while True:
                self._cancellation.check()
                if not self._waiting:
                    if self._in_progress == 0:
                        return None
                    self._changed.wait()
                    continue
                now = monotonic()
                due, blob = min(self._waiting, key=lambda waiting: waiting[0])
                if due <= now:
                    self._waiting.remove((due, blob))
                    self._in_progress += 1
                    return blob
                if self._in_progress == 0 and now - self._last_done > LONGEST_WAIT:
                    raise BlobBusy(str(blob.digest))
                self._changed.wait(due - now)

    def done(self) -> None:
        """Note that a blob from `next` is in the bucket now."""
        with self._changed:
            self._in_progress -= 1
            self._last_done = monotonic()
            self._changed.notify_all()

    def put_back(self, blob: Descriptor) -> None:
        """Try the blob again later, because another worker is copying it."""
        with self._changed:
            self._in_progress -= 1
            self._waiting.append((monotonic() + _RETRY_SECONDS, blob))
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class LargestFirst:
    """Lets one blob at a time ask for the buffers of all its parts, the largest blob first.

    If blobs asked part by part, all of them would end at the same time. Then S3 would assemble them all while nothing
    is copied any more. With this order the first parts of the next blob fill the buffers that the last parts of this
    one leave free.

    There is no deadlock: the blob in the block waits only for memory and for threads. Both come back without the
    block, since each part returns what it has taken by itself.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, object]] = []
        self._taken = False
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, size: int, cancellation: Cancellation) -> Iterator[None]:
        """Run the block when no other one runs and no larger blob waits. Raises OperationCanceled while it waits."""
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
        """How many blobs wait for their turn."""
        with self._changed:
            return len(self._waiting)

    def _is_next(self, mine: tuple[int, object]) -> bool:
        return not self._taken and mine is max(self._waiting, key=lambda waiting: waiting[0])

"""The blobs of one image that still have to come, given to several threads: largest first, and those that another
worker is copying put back until it has them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from time import monotonic
from typing import Final

from mirror.copying.cancellation import Cancellation
from mirror.errors import BlobBusy
from mirror.oci.descriptor import Descriptor

LONGEST_WAIT: Final = 5.0
"""Seconds for which nothing but waiting for other workers is done; behind that the task is parked."""
_LOOK_AGAIN: Final = 0.2


class BlobQueue:
    """Safe to share between threads; every thread asks `next` until it says None."""

    def __init__(self, blobs: Iterable[Descriptor], cancellation: Cancellation) -> None:
        self._waiting = [(0.0, blob) for blob in blobs]
        self._cancellation = cancellation
        self._in_hand = 0
        self._worked = monotonic()
        self._changed = threading.Condition()

    def next(self) -> Descriptor | None:
        """A blob to bring, None when there is none left.

        Raises BlobBusy when others have had all that is left for `LONGEST_WAIT`, or OperationCanceled.
        """
        with self._changed, self._cancellation.waking(self._wake):
            while True:
                self._cancellation.check()
                if not self._waiting:
                    if self._in_hand == 0:
                        return None
                    self._changed.wait()
                    continue
                now = monotonic()
                due, blob = min(self._waiting, key=lambda waiting: waiting[0])
                if due <= now:
                    self._waiting.remove((due, blob))
                    self._in_hand += 1
                    return blob
                if self._in_hand == 0 and now - self._worked > LONGEST_WAIT:
                    raise BlobBusy(str(blob.digest))
                self._changed.wait(due - now)

    def brought(self) -> None:
        """One that `next` gave is there now."""
        with self._changed:
            self._in_hand -= 1
            self._worked = monotonic()
            self._changed.notify_all()

    def put_back(self, blob: Descriptor) -> None:
        """Another worker is copying it."""
        with self._changed:
            self._in_hand -= 1
            self._waiting.append((monotonic() + _LOOK_AGAIN, blob))
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

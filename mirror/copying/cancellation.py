"""Stopping a copy from outside: a signal or a lost lease ends it within moments, mid-blob.

A thread that waits for bytes cannot look at a flag, so whoever waits registers how to wake it: its socket is shut down.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Self

from mirror.threads import surviving


class OperationCanceled(Exception):
    """The copy was told to stop; *reason* says by what, and *resumable* whether it is to go on later, elsewhere."""

    def __init__(self, reason: str, *, resumable: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.resumable = resumable


class Cancellation:
    """Set once, by any thread; what is woken may interrupt again (hence the reentrant lock)."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._event = threading.Event()
        self._reason = ""
        self._resumable = True
        self._wakers: dict[int, Callable[[], None]] = {}

    def interrupt(self, reason: str, *, resumable: bool = True) -> None:
        """Stop everything that checks, waits or is registered here; the first call counts."""
        with self._lock:
            if self._event.is_set():
                return
            self._reason, self._resumable = reason, resumable
            self._event.set()
            wakers = list(self._wakers.values())
        for wake in wakers:
            with surviving("waking who waits"):
                wake()

    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise OperationCanceled if the copy is to stop."""
        if self._event.is_set():
            raise OperationCanceled(self._reason, resumable=self._resumable)

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until the cancellation; raises OperationCanceled then."""
        self._event.wait(seconds)
        self.check()

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call *wake* if the cancellation comes during the block, or has come; raises OperationCanceled if it has."""
        with self._lock:
            self.check()
            self._wakers[id(wake)] = wake
        try:
            yield
        finally:
            with self._lock:
                self._wakers.pop(id(wake), None)

    def wait_for(
        self, changed: threading.Condition, predicate: Callable[[], object], timeout: float | None = None
    ) -> bool:
        """Wait on a condition that the caller holds until *predicate* is true; raises OperationCanceled.

        False if it was not true for *timeout* seconds.
        """

        def wake() -> None:
            with changed:
                changed.notify_all()

        with self.waking(wake):
            came = changed.wait_for(lambda: self.is_set() or predicate(), timeout)
            self.check()
            return bool(came)

    def bind_thread(self) -> None:
        """Make the calling thread one of this cancellation's: `pause` ends with it."""
        _THREAD.cancellation = self

    @contextmanager
    def child(self) -> Iterator[Self]:
        """An cancellation of its own that this one sets too: to stop a group of threads without stopping the rest."""
        inner = type(self)()
        with self.waking(lambda: inner.interrupt(self._reason, resumable=self._resumable)):
            yield inner

    @contextmanager
    def adopting(self) -> Iterator[None]:
        """Make the calling thread this cancellation's for the block."""
        before: Cancellation | None = getattr(_THREAD, "cancellation", None)
        _THREAD.cancellation = self
        try:
            yield
        finally:
            _THREAD.cancellation = before


_THREAD: Final = threading.local()


def pause(seconds: float) -> None:
    """Wait, in a thread that works for an cancellation no longer than until it comes; raises OperationCanceled then.

    For a library that is shared by many copies and cannot be handed the cancellation of each.
    """
    cancellation: Cancellation | None = getattr(_THREAD, "cancellation", None)
    if cancellation is None:
        time.sleep(seconds)
    else:
        cancellation.wait(seconds)


@contextmanager
def waking(wake: Callable[[], None]) -> Iterator[None]:
    """Call *wake* if the cancellation of the calling thread comes during the block.

    Raises OperationCanceled at the beginning if it was canceled before, and in the place of the block's own error if
    it was canceled meanwhile: that is what *wake* did to the block. For a library, as `pause` is.
    """
    cancellation: Cancellation | None = getattr(_THREAD, "cancellation", None)
    if cancellation is None:
        yield
        return
    with cancellation.waking(wake):
        try:
            yield
        except Exception:
            cancellation.check()
            raise

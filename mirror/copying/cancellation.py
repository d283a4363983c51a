"""Stop a copy from outside: a signal, a user or a lost lease ends it within moments, in the middle of a blob.

A thread that waits for bytes cannot look at a flag. So each waiting thread registers how to wake it: for example, its
socket is shut down.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Self

from mirror.background import suppress_faults


class OperationCanceled(Exception):
    """The copy was canceled for *reason*. *resumable* says whether it goes on later, perhaps on another worker."""

    def __init__(self, reason: str, *, resumable: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.resumable = resumable


class Cancellation:
    """A flag that is set once, by any thread, and wakes the threads that wait.

    The lock is reentrant, because a woken thread may cancel again.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._event = threading.Event()
        self._reason = ""
        self._resumable = True
        self._wakers: dict[int, Callable[[], None]] = {}

    def cancel(self, reason: str, *, resumable: bool = True) -> None:
        """Stop everything that checks, waits or is registered here. Only the first call counts."""
        with self._lock:
            if self._event.is_set():
                return
            self._reason, self._resumable = reason, resumable
            self._event.set()
            wakers = list(self._wakers.values())
        for wake in wakers:
            with suppress_faults("waking a canceled thread"):
                wake()

    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise OperationCanceled if the copy was canceled."""
        if self._event.is_set():
            raise OperationCanceled(self._reason, resumable=self._resumable)

    def wait(self, seconds: float) -> None:
        """Wait *seconds*. Raises OperationCanceled as soon as the copy is canceled."""
        self._event.wait(seconds)
        self.check()

    @contextmanager
    def on_cancel(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call *wake* if the copy is canceled during the block. Raises OperationCanceled if it was canceled before."""
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
        """Wait on a condition, which the caller holds, until *predicate* is true. Raises OperationCanceled.

        Returns False if it did not become true within *timeout* seconds.
        """

        def wake() -> None:
            with changed:
                changed.notify_all()

        with self.on_cancel(wake):
            came = changed.wait_for(lambda: self.is_set() or predicate(), timeout)
            self.check()
            return bool(came)

    @contextmanager
    def child(self) -> Iterator[Self]:
        """Yield a cancellation that is set with this one. Set alone, it stops a group of threads and not the rest."""
        inner = type(self)()
        with self.on_cancel(lambda: inner.cancel(self._reason, resumable=self._resumable)):
            yield inner

    def bind_thread(self) -> None:
        """Let `pause` and `on_cancel` in the calling thread end with this cancellation, from now on."""
        _THREAD.cancellation = self

    @contextmanager
    def bound_to_thread(self) -> Iterator[None]:
        """Let `pause` and `on_cancel` in the calling thread end with this cancellation during the block."""
        before: Cancellation | None = getattr(_THREAD, "cancellation", None)
        _THREAD.cancellation = self
        try:
            yield
        finally:
            _THREAD.cancellation = before


_THREAD: Final = threading.local()


def pause(seconds: float) -> None:
    """Wait *seconds*. Raises OperationCanceled when the cancellation that the thread is bound to is set.

    For a library that many copies share, so that it cannot be passed the cancellation of each.
    """
    cancellation: Cancellation | None = getattr(_THREAD, "cancellation", None)
    if cancellation is None:
        time.sleep(seconds)
    else:
        cancellation.wait(seconds)


@contextmanager
def on_cancel(wake: Callable[[], None]) -> Iterator[None]:
    """Call *wake* if the cancellation that the thread is bound to is set during the block. For libraries, like `pause`.

    Raises OperationCanceled at the start if it was set before. If it is set during the block, OperationCanceled
    replaces the error that the block raises, because *wake* has caused that error.
    """
    cancellation: Cancellation | None = getattr(_THREAD, "cancellation", None)
    if cancellation is None:
        yield
        return
    with cancellation.on_cancel(wake):
        try:
            yield
        except Exception:
            cancellation.check()
            raise
